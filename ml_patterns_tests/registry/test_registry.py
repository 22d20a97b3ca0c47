"""The registry's transitions, on a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ConflictError, StaleDecisionError, UserError
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.records import DecisionRecord, ModelVersion
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def registry(url: str, clock: Hands) -> Iterator[Registry]:
    engine = engine_for(url)
    yield Registry(engine, clock)
    engine.dispose()


def registered(registry: Registry, artifact: str = "a1", region: str = "eu") -> ModelVersion:
    return registry.register(
        pipeline="shop", region=region, artifact=artifact, kind="own", training_key=f"k-{artifact}"
    )


def judged(
    registry: Registry, version: ModelVersion, verdict: str = "deploy", fingerprint: str = "rows-1"
) -> DecisionRecord:
    return registry.record_decision(
        version,
        verdict=verdict,
        reason=f"because {verdict}",
        evidence={"value": 0.96},
        policy=Policy(),
        test_fingerprint=fingerprint,
        champion_generation=registry.generation("shop", version.region),
    )


def promoted(registry: Registry, artifact: str, region: str = "eu") -> ModelVersion:
    version = registered(registry, artifact, region)
    decision = judged(registry, version)
    registry.promote(
        version,
        expected_generation=decision.champion_generation,
        decision=decision,
        actor="ada",
        reason="passed",
    )
    return version


def test_registering_an_artifact_again_gives_the_same_version(registry: Registry) -> None:
    first, second = registered(registry, "a1"), registered(registry, "a2")
    assert registered(registry, "a1") == first
    assert (first.number, second.number) == (1, 2)
    assert registry.latest("shop", "eu") == second
    assert registry.find_trained("shop", "eu", "k-a1") == first
    assert registry.find_trained("shop", "eu", "other") is None


def test_a_passing_version_becomes_champion_and_the_old_one_retires(registry: Registry) -> None:
    first, second = promoted(registry, "a1"), promoted(registry, "a2")
    champion = registry.champion("shop", "eu")
    assert champion is not None
    assert (champion.version, champion.generation, champion.promoted_at) == (2, 2, NOW)
    states = {v.number: v.state for v in registry.versions("shop", "eu")}
    assert states == {first.number: "retired", second.number: "champion"}
    assert [row.action for row in registry.audit("shop", "eu") if row.version == 1] == [
        "registered",
        "judged",
        "verdict_deploy",
        "promoted",
        "retired",
    ]


def test_a_champion_moves_only_from_the_expected_generation(registry: Registry) -> None:
    version = registered(registry)
    decision = judged(registry, version)
    with pytest.raises(ConflictError, match="generation 0 now, not 3"):
        registry.promote(version, expected_generation=3, decision=decision, actor="ada", reason="r")
    assert registry.champion("shop", "eu") is None


@pytest.mark.parametrize("verdict", ["review", "reject"])
def test_what_did_not_pass_is_not_promoted(registry: Registry, verdict: str) -> None:
    version = registered(registry)
    decision = judged(registry, version, verdict)
    with pytest.raises(StaleDecisionError, match="not approved"):
        registry.promote(version, expected_generation=0, decision=decision, actor="ada", reason="r")
    assert registry.champion("shop", "eu") is None


def test_a_decision_against_an_older_champion_does_not_deploy(registry: Registry) -> None:
    version = registered(registry, "a2")
    decision = judged(registry, version)
    promoted(registry, "a1")
    with pytest.raises(StaleDecisionError, match="champion generation 0, but it is 1 now"):
        registry.promote(version, expected_generation=1, decision=decision, actor="ada", reason="r")


def test_an_overtaken_decision_does_not_deploy(registry: Registry) -> None:
    version = registered(registry)
    old = judged(registry, version)
    judged(registry, version, fingerprint="rows-2")
    with pytest.raises(StaleDecisionError, match="not its newest"):
        registry.promote(version, expected_generation=0, decision=old, actor="ada", reason="r")


def test_an_approved_review_deploys(registry: Registry) -> None:
    version = registered(registry)
    decision = judged(registry, version, "review")
    (review,) = registry.reviews("shop")
    answered = registry.decide_review(review.id, approve=True, reviewer="ada", reason="looked")
    assert (answered.state, answered.reviewer) == ("approved", "ada")
    registry.promote(version, expected_generation=0, decision=decision, actor="ada", reason="ok")
    assert registry.generation("shop", "eu") == 1


@pytest.mark.parametrize(("reviewer", "reason"), [("", "x"), ("ada", " ")])
def test_an_answer_without_identity_or_reason_is_refused(
    registry: Registry, reviewer: str, reason: str
) -> None:
    judged(registry, registered(registry), "review")
    (review,) = registry.reviews("shop")
    with pytest.raises(UserError, match="mandatory"):
        registry.decide_review(review.id, approve=True, reviewer=reviewer, reason=reason)
    assert registry.reviews("shop") == [review]


def test_a_rejected_review_does_not_deploy(registry: Registry) -> None:
    version = registered(registry)
    decision = judged(registry, version, "review")
    (review,) = registry.reviews("shop")
    registry.decide_review(review.id, approve=False, reviewer="ada", reason="odd slices")
    with pytest.raises(StaleDecisionError, match="it is rejected"):
        registry.promote(
            version, expected_generation=0, decision=decision, actor="ada", reason="ok"
        )
    with pytest.raises(StaleDecisionError, match="already rejected by ada: odd slices"):
        registry.decide_review(review.id, approve=True, reviewer="bob", reason="fine")


def test_expiry_rejects(registry: Registry, clock: Hands) -> None:
    judged(registry, registered(registry), "review")
    clock.now += timedelta(days=7) - timedelta(seconds=1)
    assert registry.expire_reviews() == []
    clock.now += timedelta(seconds=1)
    (expired,) = registry.expire_reviews()
    assert expired.state == "expired"
    assert registry.version("shop", "eu", 1).state == "expired"


def test_an_answer_after_the_expiry_does_not_count(registry: Registry, clock: Hands) -> None:
    judged(registry, registered(registry), "review")
    (review,) = registry.reviews("shop")
    clock.now += timedelta(days=8)
    with pytest.raises(StaleDecisionError, match="expired"):
        registry.decide_review(review.id, approve=True, reviewer="ada", reason="late")
    assert registry.review(review.id).state == "expired"


def test_a_review_is_void_once_the_champion_changed(registry: Registry) -> None:
    judged(registry, registered(registry, "a1"), "review")
    (review,) = registry.reviews("shop")
    with registry.engine.begin() as connection:  # another promotion, seen from this review
        connection.execute(sa.text("UPDATE registry_champions SET generation = 1"))
    with pytest.raises(StaleDecisionError, match="the region's champion changed"):
        registry.decide_review(review.id, approve=True, reviewer="ada", reason="ok")
    assert registry.review(review.id).state == "voided"


def test_a_promotion_voids_the_reviews_of_the_region(registry: Registry) -> None:
    judged(registry, registered(registry, "a1"), "review")
    (review,) = registry.reviews("shop")
    promoted(registry, "a2")
    voided = registry.review(review.id)
    assert voided.state == "voided"
    assert voided.reason is not None
    assert "the model" in voided.reason


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"policy_hash": "other"}, "the policy of the gate"),
        ({"test_fingerprint": "other"}, "the rows of the test slice"),
    ],
)
def test_a_review_names_what_changed(
    registry: Registry, changed: dict[str, str], named: str
) -> None:
    judged(registry, registered(registry), "review")
    (review,) = registry.reviews("shop")
    with pytest.raises(StaleDecisionError, match=f"is void: {named} changed"):
        registry.decide_review(review.id, approve=True, reviewer="ada", reason="ok", **changed)


def test_new_data_elsewhere_voids_nothing(registry: Registry) -> None:
    judged(registry, registered(registry), "review")
    promoted(registry, "b1", region="us_east")
    (review,) = registry.reviews("shop")
    assert review.region == "eu"


def test_rollback_returns_to_the_champion_before_and_once_more(registry: Registry) -> None:
    for artifact in ("a1", "a2", "a3"):
        promoted(registry, artifact)
    served = [
        registry.rollback("shop", "eu", to_generation=None, actor="ada", reason="bad").version
        for _ in range(2)
    ]
    assert served == [2, 1]
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("shop", "eu", to_generation=None, actor="ada", reason="bad")
    champion = registry.rollback("shop", "eu", to_generation=3, actor="ada", reason="was fine")
    assert (champion.version, champion.generation) == (3, 6)
    assert [g.restores for g in registry.generations("shop", "eu")] == [None, None, None, 2, 1, 3]


def test_rollback_of_the_fleet_leaves_out_regions_without_a_past(registry: Registry) -> None:
    for artifact in ("a1", "a2"):
        promoted(registry, artifact)
    promoted(registry, "b1", region="us_east")
    (restored,) = registry.rollback_all("shop", actor="ada", reason="incident 7")
    assert (restored.region, restored.version) == ("eu", 1)


def test_a_champion_that_fails_a_later_test_keeps_serving(registry: Registry) -> None:
    version = promoted(registry, "a1")
    judged(registry, version, "reject", fingerprint="rows-2")
    assert registry.version("shop", "eu", 1).state == "champion"
    assert registry.generation("shop", "eu") == 1
    assert notifications(registry.engine)[-1].kind == "champion_in_doubt"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE registry_audit SET reason = 'x'",
        "DELETE FROM registry_audit",
        "TRUNCATE registry_audit",
    ],
)
def test_the_audit_log_cannot_be_changed(registry: Registry, statement: str) -> None:
    registered(registry)
    if statement.startswith("TRUNCATE") and registry.engine.dialect.name == "sqlite":
        statement = "DELETE FROM registry_audit WHERE TRUE"  # SQLite has no TRUNCATE
    before = registry.audit()
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), registry.engine.begin() as c:
        c.execute(sa.text(statement))
    assert registry.audit() == before
