"""The whole story on the bundled events, with real parts: `make demo`."""
