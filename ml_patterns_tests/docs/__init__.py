"""The documentation is followed as a reader would; `page.py` says how a page is read."""
