"""Promise: whatever the interleaving, one probe at a time, no lost open, no straggler closing it.

A simulator of a fleet on a virtual clock: processes begin calls, end them in any order and way, are
killed in the middle, and time passes. What must hold is checked after every step.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ml_patterns.circuit_breaker.breaker import Admission, CircuitOpenError, SharedBreaker
from ml_patterns.circuit_breaker.store import LocalStore
from ml_patterns.retry.classify import HttpStatusError
from ml_patterns_tests.retry.virtual import VirtualTime

FAIL_MAX, RESET, LEASE, CACHED = 3, 60.0, 30.0, 0.25
PROCESSES = st.integers(0, 3)
DOWN = HttpStatusError("http://server", 503, {})
REFUSED = HttpStatusError("http://server", 422, {})


class Fleet(RuleBasedStateMachine):
    """Four processes, one circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.store = VirtualTime(), LocalStore()
        self.breakers = [
            SharedBreaker(
                "server", self.store, fail_max=FAIL_MAX, reset_timeout=RESET, lease=LEASE,
                cached_for=CACHED, clock=self.time.now, monotonic=self.time.monotonic,
                uniform=lambda low, _high: low, owner=str(number),
            )
            for number in range(4)
        ]  # fmt: skip
        self.under_way: list[tuple[int, Admission, float]] = []
        self.failures_in_a_row = 0
        self.succeeded: set[int] = set()
        self.changed_at = -CACHED

    @property
    def everybody_knows(self) -> bool:
        """Whether the last transition is older than what anybody may still believe."""
        return self.time.monotonic() >= self.changed_at + CACHED

    def _note_transition(self, epoch_before: int) -> None:
        if self.store.read("server").epoch != epoch_before:
            self.changed_at = self.time.monotonic()
            self.failures_in_a_row = 0
            self.succeeded.clear()

    def _count(self, process: int) -> None:
        """The design's rule: a process that succeeded since the count began restarts it at one.

        Successes cost no write, so what another process answered meanwhile is not known.
        """
        if self.failures_in_a_row == 0 or process in self.succeeded:
            self.failures_in_a_row = 0
            self.succeeded.clear()
        self.failures_in_a_row += 1

    @rule(process=PROCESSES)
    def a_call_begins(self, process: int) -> None:
        before, now = self.store.read("server"), self.time.now()
        try:
            admission = self.breakers[process].admit()
        except CircuitOpenError:
            if self.everybody_knows:
                assert before.state != "closed", "a closed circuit refuses nobody"
                assert not before.probe_due(now), "a due probe is not refused"
            return
        if admission.probe:
            assert before.probe_due(now), "no probe before its time"
        elif self.everybody_knows:
            assert before.state == "closed", "while open only probes get through"
        self._note_transition(before.epoch)
        self.under_way.append((process, admission, self.time.monotonic()))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from(["ok", "down", "refused", "interrupted", "killed"]))
    def a_call_ends(self, data: st.DataObject, how: str) -> None:
        chosen = data.draw(st.integers(0, len(self.under_way) - 1))
        process, admission, _ = self.under_way.pop(chosen)
        before = self.store.read("server")
        errors = {"ok": None, "down": DOWN, "refused": REFUSED, "interrupted": KeyboardInterrupt()}
        if how != "killed":
            self.breakers[process].settle(admission, errors[how])
        after = self.store.read("server")
        current = admission.epoch == before.epoch
        if not current:
            assert after == before, "results of an older epoch are discarded"
        if before.state != "closed" and after.state == "closed":
            assert admission.probe, "only the probe closes"
            assert how == "ok", "and only if it was answered"
        if before.state == "closed":
            if how == "ok":
                self.succeeded.add(process)
            elif how == "down" and current:
                self._count(process)
        if self.failures_in_a_row >= FAIL_MAX and before.state == "closed":
            assert after.state == "open", "no open is lost"
        assert after.epoch <= before.epoch + 1
        self._note_transition(before.epoch)

    @rule(seconds=st.sampled_from([0.1, 0.5, 10.0, 29.0, 30.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.time.sleep(seconds)

    @invariant()
    def one_probe_at_a_time(self) -> None:
        """A probe whose lease ran out is taken for dead: its call has timed out by then."""
        probes = [
            begun
            for _, admission, begun in self.under_way
            if admission.probe and self.time.monotonic() < begun + LEASE
        ]
        # A probe that proved nothing ends and another begins; both are never under way.
        assert len(probes) <= 1

    @invariant()
    def a_circuit_that_is_not_closed_says_when_it_will_be_tried(self) -> None:
        circuit = self.store.read("server")
        if circuit.state == "open":
            assert circuit.retry_at is not None
        if circuit.state == "half-open":
            assert circuit.lease_until is not None


Fleet.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestFleet = Fleet.TestCase
