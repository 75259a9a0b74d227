"""Manual grading in a browser: `python -m staff.gradebook serve TERM`. On this machine alone (loopback).

Whoever has the address with its token, which the terminal shows, may read and grade. A request counts only with a
cookie that the token gave, a known Host and, if it changes something, the form's own secret: another page that is open
in the same browser can neither read nor save. What students wrote is escaped; a report in HTML is shown in a frame in
which nothing runs and nothing is fetched.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.serving import make_server

from staff.gradebook.desk import Card, ConflictError, Desk, State, points_of
from staff.gradebook.rubric import Item, Rubric
from staff.grader.reports.page import COLOURS
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import UserError

HOST = "127.0.0.1"
OURS = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A student's page: an origin of its own, no scripts, nothing fetched; pictures only from inside the file.
THEIRS = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
MOST_BODY = 1 << 16
# Letters that take a comment from the list; c, j, k, n and u have other meanings.
LETTERS = "abdefghilmopqrstvwxyz"


def make_app(desk: Desk, token: str, port: int) -> Flask:
    """The application. token: what the first address must hold; port: of the addresses that are answered."""
    app = Flask(__name__, template_folder="web", static_folder="web/static")
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        SESSION_COOKIE_NAME=f"gradebook{port}",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=MOST_BODY,
    )
    app.jinja_env.globals.update(points_of=points_of, letters=LETTERS)
    _guard(app, token, {f"{HOST}:{port}", f"localhost:{port}"})
    _add_heads(app)
    for add in (_add_first_page, _add_answers, _add_reports, _add_saving):
        add(app, desk)
    return app


def _guard(app: Flask, token: str, hosts: set[str]) -> None:
    @app.before_request
    def check() -> Any:
        if request.host not in hosts:
            abort(400, "This address is not ours.")
        if request.endpoint in ("static", "colours"):
            return None
        if request.path == "/" and hmac.compare_digest(request.args.get("token", "").encode(), token.encode()):
            session.setdefault("form", secrets.token_urlsafe())
            return redirect("/")
        if "form" not in session:
            abort(403, "Open the address that the terminal shows; it holds a token.")
        if request.method == "POST":
            origin = request.headers.get("Origin", f"http://{request.host}")
            given = request.form.get("form", "").encode()
            if origin != f"http://{request.host}" or not hmac.compare_digest(given, session["form"].encode()):
                abort(403, "This form is not ours; load the page again.")
        return None


def _add_heads(app: Flask) -> None:
    @app.after_request
    def head(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", OURS)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"  # with "no-referrer" a form has no Origin
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(UserError)
    def wrong(error: UserError) -> Any:
        return _message(str(error), 500)

    for code in (400, 403, 404, 413):
        app.register_error_handler(code, lambda error: _message(error.description, error.code))


def _message(text: str, code: int) -> Any:
    """What is wrong, as the page or the script that asked can read it."""
    if _wants_json():
        return {"error": text}, code
    return render_template("message.html", text=text), code


def _wants_json() -> bool:
    return "application/json" in request.headers.get("Accept", "")


def _add_first_page(app: Flask, desk: Desk) -> None:
    @app.get("/colours.css")
    def colours() -> Response:
        return Response(COLOURS, mimetype="text/css")

    @app.get("/")
    def index() -> str:
        return render_template("index.html", parts=[_overview(desk, one) for one in desk.rubrics.values()])

    @app.post("/who")
    def who() -> Response:
        name = " ".join(request.form.get("who", "").split())[:60]
        if name and name.isprintable():
            session["who"] = name
        session["names"] = request.form.get("names") == "yes"
        return redirect("/")


def _add_answers(app: Flask, desk: Desk) -> None:
    @app.get("/answers/<name>/<int:number>")
    def answers(name: str, number: int) -> Any:
        rubric, item = _find(desk, name, number)
        if rubric.per != "student" or "who" not in session:
            return redirect("/")
        cards, missing = desk.cards(name, item)
        return render_template(
            "answers.html",
            rubric=rubric,
            item=item,
            number=number,
            cards=cards if session.get("names") else desk.mixed(cards),
            missing=missing,
            states=desk.states(name),
            blank=State(),
            comments={f"/save/{name}/{number}": desk.comments(name, item)},
            ours=desk.ours(name, item),
        )


def _add_reports(app: Flask, desk: Desk) -> None:
    @app.get("/report/<name>/<key>")
    def report(name: str, key: str) -> Any:
        rubric, item = _find(desk, name, 0)
        if rubric.per != "team" or "who" not in session:
            return redirect("/")
        cards = desk.cards(name, item)[0]
        place = cards.index(_card(cards, key))
        return render_template(
            "report.html",
            rubric=rubric,
            card=cards[place],
            previous=cards[place - 1] if place else None,
            following=cards[place + 1] if place + 1 < len(cards) else None,
            states=desk.states(name),
            blank=State(),
            comments={f"/save/{name}/{n}": desk.comments(name, one) for n, one in enumerate(rubric.items)},
            is_pdf=_is_pdf(desk.report_bytes(name, cards[place].name)),
        )

    @app.get("/file/<name>/<key>")
    def file(name: str, key: str) -> Response:
        _, item = _find(desk, name, 0)
        content = desk.report_bytes(name, _card(desk.cards(name, item)[0], key).name)
        if _is_pdf(content):  # the browser's own viewer shows it, which a sandboxed frame does not hold
            policy = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"
            return Response(content, mimetype="application/pdf", headers={"Content-Security-Policy": policy})
        return Response(content, mimetype="text/html", headers={"Content-Security-Policy": THEIRS})


def _add_saving(app: Flask, desk: Desk) -> None:
    @app.post("/save/<name>/<int:number>")
    def save(name: str, number: int) -> Any:
        rubric, item = _find(desk, name, number)
        if "who" not in session:
            abort(403, "Say who you are first.")
        card = _card(desk.cards(name, item)[0], request.form.get("card", ""))
        level, comment = request.form.get("level"), request.form.get("comment")
        if level and level not in [one.key for one in item.levels]:
            abort(400, f"level is {level!r}; allowed: {', '.join(one.key for one in item.levels)}")
        status, conflict = 200, ""
        try:
            seen = request.form.get("seen", "")
            desk.save(name, item, card, session["who"], seen, level=level, comment=comment)
        except ConflictError as error:
            status, conflict = 409, f"{error.state.who} decided this meanwhile; press again to replace it"
        if not _wants_json():  # without scripts: a plain form
            return redirect(
                url_for("answers", name=name, number=number, _anchor=card.key)
                if rubric.per == "student"
                else url_for("report", name=name, key=card.key)
            )
        states = {key: state.as_json() for (key, about), state in desk.states(name).items() if about == item.id}
        return {"states": states, "comments": desk.comments(name, item), "conflict": conflict}, status


def _overview(desk: Desk, rubric: Rubric) -> dict[str, Any]:
    """What the first page says of an assignment: how much of each item is read."""
    states, rows = desk.states(rubric.assignment), []
    for item in rubric.items:
        cards, missing = desk.cards(rubric.assignment, item)
        done = [bool(states.get((card.key, item.id), State()).level) for card in cards]
        rows.append({"item": item, "cards": cards, "done": sum(done), "missing": missing})
    teams = []
    if rubric.per == "team" and rows:
        for card in rows[0]["cards"]:
            given = [states.get((card.key, item.id), State()).points for item in rubric.items]
            points = [value for value in given if value is not None]
            teams.append({"card": card, "done": len(points), "points": sum(points)})
    return {"rubric": rubric, "rows": rows, "teams": teams, "title": desk.term.load(rubric.assignment).title}


def _find(desk: Desk, name: str, number: int) -> tuple[Rubric, Item]:
    item = desk.rubrics[name].item(number) if name in desk.rubrics else None
    if item is None:
        abort(404, "There is no such page.")
    return desk.rubrics[name], item


def _card(cards: list[Card], key: str) -> Card:
    card = next((card for card in cards if card.key == key), None)
    if card is None:
        abort(404, "There is no such work any more; load the first page again.")
    return card


def _is_pdf(content: bytes) -> bool:
    return content.startswith(b"%PDF-")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = OneLineParser(prog="python -m staff.gradebook serve", description=__doc__.splitlines()[0])
    parser.add_argument("term", type=Path, help="folder with roster.csv and the hand-ins")
    parser.add_argument("--port", type=in_range(int, 0, 65535), default=8765, help="0: any that is free")
    arguments = parser.parse_args(argv)
    desk, token = Desk(arguments.term, secrets.token_bytes(32)), secrets.token_urlsafe()
    try:
        server = make_server(HOST, arguments.port, Flask(__name__), threaded=True)
    except (OSError, SystemExit):
        raise UserError(f"port {arguments.port} is taken; give another --port, or 0 for any that is free") from None
    server.app = make_app(desk, token, server.port)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each key would bury the address
    print(f"http://{HOST}:{server.port}/?token={token}")
    print("Open this address in a browser on this machine; Ctrl-C ends.", flush=True)
    with server:
        server.serve_forever()
    return 0
