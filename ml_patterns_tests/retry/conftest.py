"""Both databases, as tests want them: fresh."""

from ml_patterns_tests.registry.conftest import postgres, url

__all__ = ["postgres", "url"]
