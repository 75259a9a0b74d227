"""JUnit XML: one test case a check, so that any CI can show a grading run."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from staff.grader.reports.feedback import lines_of, shown_message


def render(results: dict) -> bytes:
    """The file's content. TODOs are suites; characters that XML cannot hold are replaced."""
    root = ElementTree.Element("testsuites", name=results["assignment"])
    for todo in results["todos"]:
        statuses = [check["status"] for check in todo["checks"]]
        suite = ElementTree.SubElement(root, "testsuite", name=_text(f"{todo['id']} {todo['title']}"))
        suite.set("tests", str(len(statuses)))
        suite.set("failures", str(sum(status in ("failed", "not_started") for status in statuses)))
        suite.set("errors", str(statuses.count("grader_error")))
        suite.set("skipped", str(statuses.count("skipped")))
        suite.set("time", f"{sum(check['seconds'] for check in todo['checks']):.2f}")
        for check in todo["checks"]:
            case = ElementTree.SubElement(suite, "testcase", name=_text(check["title"]), classname=todo["id"])
            case.set("time", f"{check['seconds']:.2f}")
            kind = {"failed": "failure", "not_started": "failure", "skipped": "skipped", "grader_error": "error"}
            if check["status"] in kind:
                element = ElementTree.SubElement(case, kind[check["status"]], message=_text(shown_message(check)[:300]))
                element.text = _text("\n".join(lines_of(check)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _text(text: str) -> str:
    return "".join(c if c in "\n\t" or (c.isprintable() and ord(c) < 0xFFFE) else "?" for c in text)
