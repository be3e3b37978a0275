"""axe-core in the browser of the page's tests; the vendored file is run by the driver, so the page's policy stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.browser import Browser

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
_RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ['violations'] }).then(
  (found) => done(found.violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(
    ({ html, failureSummary }) => html.slice(0, 200) + ' | ' + failureSummary) }))),
  (error) => done([{ id: String(error) }]));
"""


def violations(browser: Browser) -> list[dict[str, Any]]:
    """Violations of all of axe's rules, best practices included, in the page as it stands."""
    if not browser.js("return 'axe' in window"):
        browser.js(AXE.read_text(encoding="utf-8"))
    return list(browser.driver.execute_async_script(_RUN))
