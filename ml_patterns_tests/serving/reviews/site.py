"""An installation with reviews that wait, and a browser in front of it.

Belongs here: what tests and screenshots of the review pages share. Does not: the tests.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from ml_patterns.branching import commands
from ml_patterns.branching.deploy import Deployment, deploy
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.records import Review
from ml_patterns.registry.reviewers import Reviewers
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.encoding import encode
from ml_patterns_tests.branching.conftest import FEATURES, START, Shop, card, events, fitted
from ml_patterns_tests.serving.conftest import House

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REVIEWING = Policy(deploy_at=0.999, review_at=0.5)
"""Sends every usable model to a human."""


@dataclass
class Site:
    """An installation in a folder.

    Attributes:
        policy: of the gate.
        noise: share of labels that no model can know.
    """

    folder: Path
    policy: Policy = REVIEWING
    noise: float = 0.02
    house: House = field(init=False)
    shop: Shop = field(init=False)

    def __post_init__(self) -> None:
        self.house = House.build(self.folder)
        self.shop = Shop(
            self.house.registry,
            self.house.artifacts,
            str(self.folder / "artifacts"),
            f"sqlite:///{self.folder / 'state.sqlite'}",
        )

    @property
    def reviewers(self) -> Reviewers:
        """Who may answer."""
        return Reviewers(self.house.registry.engine)

    def ask(
        self,
        region: str = "eu",
        *,
        seed: int = 1,
        rounds: int = 30,
        data_checks: dict[str, bool | None] | None = None,
        test: pd.DataFrame | None = None,
        **changes: Any,
    ) -> Review:
        """Trains a model that a human is asked about."""
        frame = events(800, seed=seed, noise=self.noise)
        booster = fitted(frame, rounds=rounds)
        described = self._card(frame, booster, region, **changes)
        if test is None:
            test = events(600, seed=2, noise=self.noise, start=START + timedelta(days=7))
        self.shop.judge(
            booster, described, test, policy=self.policy, region=region, data_checks=data_checks
        )
        return next(
            review for review in self.house.registry.reviews("shop") if review.region == region
        )

    def deploy(self, region: str = "eu") -> Deployment:
        """What the deployment sensor's run does."""
        registry = self.house.registry
        return deploy(registry, self.shop.store, self.policy, "shop", region, actor="run")

    def with_champion(self, region: str = "eu", *, seed: int = 5, rounds: int = 3) -> None:
        """Has a region serve a weaker model."""
        review = self.ask(region, seed=seed, rounds=rounds)
        commands.approve(
            self.house.registry, review.id, reviewer="grace", reason="better than nothing"
        )
        assert self.deploy(region).promoted

    def _card(
        self, frame: pd.DataFrame, booster: lgb.Booster, region: str, **changes: Any
    ) -> ModelCard:
        gains = booster.feature_importance("gain")
        shares = (gains / gains.sum()).tolist()
        names = [feature.name for feature in FEATURES]
        probabilities = np.asarray(booster.predict(encode(frame, FEATURES), num_threads=1))
        right = (probabilities >= 0.5) == frame["label"].to_numpy(dtype=bool)
        values: dict[str, Any] = {
            "region": region,
            "importances": dict(zip(names, shares, strict=True)),
            "metrics": {"accuracy": float(right.mean())},
        }
        return card(frame, booster, **(values | changes))


def chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install it")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on PATH: apt-get install chromium")


@contextlib.contextmanager
def browser(path: str) -> Iterator["Browser"]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, which containers often are.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()
