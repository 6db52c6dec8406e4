# SPDX-License-Identifier: Apache-2.0
"""Hooks of the site (mkdocs.yml): the card of the bundle, docs/README.md by MONAI's rule, is a page of its own, and
docs/index.md is the first one. MkDocs takes either for the first page, and never both.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CARD, PAGE = "README.md", "model_card.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the card under another name."""
    content = (Path(config["docs_dir"]) / CARD).read_text(encoding="utf-8")
    files.append(File.generated(config, PAGE, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the card lead to its page."""
    return markdown.replace(f"({CARD})", f"({PAGE})").replace(f"({CARD}#", f"({PAGE}#")
