"""The explorer's page in a browser: what it shows, its keys, its addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from explored import WATCH, Visitor
from support import lamina, running, write_layout

WEB = "shop/web:1.4"
RULES = """
[[rules]]
repositories = "shop/**"
who = "anonymous"
actions = "pull"

[[rules]]
repositories = "**"
who = "*"
actions = "pull"
"""


def state(page: Any) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).query).items()}


def rows(page: Any) -> list[str]:
    texts: list[str] = page.locator("[role=treeitem] .what").all_inner_texts()
    return texts


# repositories and tags


def test_repositories_are_filtered_while_typing(visitor: Visitor) -> None:
    page = visitor.see()
    assert page.locator(".lines .line").count() >= 5
    page.get_by_label("Filter repositories").press_sequentially("SHOP")
    page.locator(".lines .line").filter(has_text="hostile").wait_for(state="detached")
    assert [text.split()[0] for text in page.locator(".lines .line").all_inner_texts()] == [
        "shop/jobs",
        "shop/web",
    ]
    assert state(page) == {"q": "SHOP"}
    page.get_by_label("Filter repositories").fill("no such thing")
    page.get_by_text("No repository's name contains").wait_for()


def test_tags_have_sizes_and_the_command_of_each_client(visitors: Callable[..., Visitor], answer: Any) -> None:
    visitor = visitors(own=True, permissions=["clipboard-read", "clipboard-write"])
    page = visitor.see("?repository=shop/web")
    assert page.locator("td.tag").all_inner_texts() == ["1.4", "1.5"]
    host = visitor.address.removeprefix("http://")
    for client, command in (
        ("docker", f"docker pull {host}/shop/web:1.4"),
        ("podman", f"podman pull --tls-verify=false {host}/shop/web:1.4"),
        ("lamina", f"lamina pull {host}/shop/web:1.4"),
    ):
        page.get_by_label("Client").select_option(client)
        assert page.locator(".command").inner_text() == command
        page.get_by_role("button", name="Copy command").click()
        page.get_by_text("Copied the command.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == command
    page.get_by_label("Client").select_option("docker")
    page.reload()
    visitor.settled()
    assert page.locator(".command").inner_text().startswith("docker ")  # it is remembered


def test_two_tags_are_compared(visitor: Visitor) -> None:
    page = visitor.see("?repository=shop/web")
    page.get_by_label("Choose 1.4 to compare").check()
    page.get_by_label("Choose 1.5 to compare").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    visitor.settled()
    assert state(page) == {"image": WEB, "view": "compare", "other": "shop/web:1.5"}
    assert page.locator(".count.added .figure").inner_text() == "1"
    assert page.locator(".count.removed .figure").inner_text() == "1"
    assert page.locator(".count.changed .figure").inner_text() == "2"
    assert "SEARCH" in page.locator(".view.compare table").inner_text()
    models = page.locator("[role=treeitem]").filter(has_text="models")
    assert models.locator(".why").inner_text() == "time"
    assert models.locator(".sign").inner_text() == "", "a touched directory is no change"
    assert "README.md" not in rows(page)
    page.get_by_label("also 2 paths of which only the time differs").check()
    page.locator("[role=treeitem]").filter(has_text="README.md").wait_for()
    visitor.settled()
    assert state(page)["times"] == "1"
    assert page.locator(".count.changed .figure").inner_text() == "2"
    page.locator("[role=treeitem]").filter(has_text="main.py").click()
    page.locator(".diff").wait_for()
    assert 'Route("/search", search)' in page.locator(".diff .added").all_inner_texts()[-1]
    page.get_by_role("button", name="Swap the two images").click()
    visitor.settled()
    assert state(page)["other"] == WEB


# the stack


def heights(page: Any) -> dict[int, float]:
    """The thickness of each slab, from its left face."""
    found = page.eval_on_selector_all(
        ".slab",
        """slabs => slabs.map(one => {
            const ys = one.querySelector('.left').getAttribute('points').split(' ').map(p => Number(p.split(',')[1]));
            return [ys[3] - ys[0], ys[1]];
        })""",
    )
    assert [at for _, at in found] == sorted((at for _, at in found), reverse=True), (
        "the first layer lies at the bottom"
    )
    return {number: thick for number, (thick, _) in enumerate(found, 1)}


def test_slabs_are_as_thick_as_their_layers_are_large(visitor: Visitor, answer: Any) -> None:
    page = visitor.image()
    sizes = {layer["number"]: layer["size"] for layer in answer("image", image=WEB)["layers"]}
    thick = heights(page)
    assert thick.keys() == sizes.keys()
    least = min(thick.values())
    assert least >= 4
    large = [number for number in sizes if thick[number] > least + 0.01]
    assert len(large) >= 3
    for one in large:
        assert thick[one] / thick[large[0]] == pytest.approx(sizes[one] / sizes[large[0]], rel=0.001)
    assert all(sizes[one] <= min(sizes[each] for each in large) for one in sizes if one not in large)


def test_a_layer_tells_its_step_and_who_shares_it(visitor: Visitor) -> None:
    page = visitor.image()
    page.locator(".layers li").nth(6).hover()
    card = page.get_by_role("tooltip")
    assert "apt-get install -y python3" in card.inner_text()
    assert "Shared with 2 other images" in card.inner_text()
    assert page.locator(".slab.lifted").count() == 6, "what lies above is lifted"
    page.mouse.move(1200, 700)
    assert not card.is_visible()
    page.keyboard.press("Tab")
    page.locator(".layers .pick").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert card.is_visible(), "the keyboard shows it too"


def test_a_click_on_a_slab_shows_its_files_alone(visitor: Visitor) -> None:
    page = visitor.image()
    page.locator(".slab .left").nth(6).click()
    page.locator(".filtered").get_by_text("layer 7").wait_for()
    visitor.settled()
    assert state(page)["layer"] == "7"
    assert rows(page) == ["srv", "app", "models", "README.md", "ranking.onnx"]
    assert "COPY models/" in page.locator("#chosen-layer").inner_text()
    assert page.locator(".layers [aria-pressed=true]").inner_text().startswith("7")
    page.locator(".filtered").get_by_role("button", name="Show all layers").click()
    page.locator("[role=treeitem]").filter(has_text="usr").wait_for()
    assert "layer" not in state(page)


def test_unpacked_sizes_change_the_slabs(visitor: Visitor) -> None:
    page = visitor.image()
    before = heights(page)
    page.get_by_role("button", name="unpacked").click()
    assert page.get_by_role("button", name="unpacked").get_attribute("aria-pressed") == "true"
    assert heights(page) != before


# the union as a tree


def test_each_path_has_the_number_of_its_layer(visitor: Visitor, answer: Any) -> None:
    page = visitor.image(path="/etc/passwd")
    told = {entry["name"]: entry["layer"] for entry in answer("tree", image=WEB, path="/etc")["entries"]}
    shown = {
        row.locator(".what").inner_text(): int(row.locator(".chip").inner_text())
        for row in page.locator("[role=treeitem][aria-level='2']").all()
    }
    assert shown == told
    assert shown["passwd"] == 6
    colours = {
        row.evaluate("one => getComputedStyle(one.querySelector('.chip')).backgroundColor")
        for row in page.locator("[role=treeitem][aria-level='2']").all()
    }
    assert len(colours) == len(set(told.values()))


def test_a_key_during_loading_leads_to_no_other_directory(visitor: Visitor) -> None:
    page = visitor.image()
    visitor.focus_tree()
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/explore/api/tree*", hold)
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert visitor.at == "etc"
    for one in held:
        one.continue_()
    page.locator("[role=treeitem][aria-level='2']").first.wait_for()
    assert visitor.at == "etc"
    page.keyboard.press("ArrowRight")
    assert visitor.at == "apt"


def test_the_keys_of_a_tree(visitor: Visitor) -> None:
    page = visitor.image()
    tree = visitor.focus_tree()
    press = page.keyboard.press
    assert visitor.at == "bin"
    press("ArrowDown")
    press("ArrowRight")
    page.locator("[role=treeitem][aria-expanded=true]").filter(has_text="etc").wait_for()
    page.locator("[role=treeitem][aria-level='2']").first.wait_for()
    press("ArrowRight")
    assert visitor.at == "apt"
    press("ArrowLeft")
    assert visitor.at == "etc"
    press("ArrowLeft")
    assert page.locator("[role=treeitem][aria-expanded=true]").count() == 0
    press("End")
    assert visitor.at == "var"
    press("Home")
    assert visitor.at == "bin"
    press("s")
    press("r")
    assert visitor.at == "srv"
    press("Space")  # belongs to what is typed: nothing is named "sr "
    assert page.locator("[role=treeitem][aria-expanded=true]").count() == 0
    press("Home")  # typing is over
    press("e")
    press("ArrowRight")
    page.locator("[role=treeitem]").filter(has_text="passwd").wait_for()
    press("p")
    assert visitor.at == "passwd"
    press("Enter")
    page.locator(".side h3").filter(has_text="Content").wait_for()
    assert state(page)["path"] == "/etc/passwd"
    assert tree.evaluate("one => one === document.activeElement"), "the keys stay in the tree"
    press("Escape")
    page.get_by_text("Choose a path").wait_for()
    assert "path" not in state(page)


def test_a_tree_for_screen_readers(visitor: Visitor) -> None:
    page = visitor.image(path="/etc/passwd")
    passwd = page.locator("[role=treeitem][aria-selected=true]")
    assert passwd.get_attribute("aria-level") == "2"
    assert passwd.get_attribute("aria-posinset") == "5"
    assert passwd.get_attribute("aria-setsize") == "5"
    assert page.locator("[role=tree]").get_attribute("aria-label")
    active = page.locator("[role=tree]").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").inner_text() == passwd.inner_text()


def test_hidden_entries_are_struck_through_on_demand(visitor: Visitor) -> None:
    page = visitor.image(path="/srv/app/settings.toml")
    assert page.locator(".what.gone").count() == 0
    assert page.locator("[role=treeitem] .marks").count() > 0, "directories of several layers have their colours"
    page.get_by_label("hidden entries").check()
    page.locator(".what.gone").first.wait_for()
    visitor.settled()
    gone = page.locator("[role=treeitem]").filter(has=page.locator(".gone"))
    assert sum(".env" in text for text in gone.all_inner_texts()) == 2
    assert page.locator(".gone").first.evaluate("one => getComputedStyle(one).textDecorationLine") == "line-through"
    secret = gone.filter(has_text="removed by layer 8")
    secret.click()
    page.get_by_text("Hidden: removed by layer 8").wait_for()
    page.locator(".text").get_by_text("DATABASE_URL").wait_for()
    there = page.url
    page.reload()
    visitor.settled()
    page.locator(".text").get_by_text("DATABASE_URL").wait_for()
    assert page.url == there
    assert page.locator("[role=treeitem][aria-selected=true] .gone").count() == 1


def test_blame_names_layers_and_what_they_shadow(visitor: Visitor) -> None:
    page = visitor.image(path="/etc/passwd")
    moments = page.locator(".moment").all_inner_texts()
    assert len(moments) == 2
    assert re.search(r"Put here by layer 6.*useradd", moments[0], re.DOTALL)
    assert re.search(r"layer 1.*Replaced by layer 6", moments[1], re.DOTALL)


def test_previews_and_download(visitor: Visitor) -> None:
    page = visitor.image(path="/srv/app/pages.py")
    lines = page.locator(".line-of-text").all_text_contents()
    assert lines[0] == "def front(request):\n"
    assert lines[1] == '\treturn render("front.html")\n'
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "pages.py"
    assert download.value.path().read_text() == "".join(lines)
    visitor.image(path="/srv/app/static/logo.png")
    page.wait_for_load_state("networkidle")
    assert page.locator(".picture").evaluate("one => [one.naturalWidth, one.naturalHeight]") == [240, 120]


# sizes, waste, details, search


def test_areas_of_the_treemap_are_sizes(visitor: Visitor, answer: Any) -> None:
    page = visitor.image(view="sizes")
    told = {one["name"]: one["size"] for one in answer("treemap", image=WEB, path="/", depth="1")["children"]}
    box = page.locator(".treemap").bounding_box()
    area = box["width"] * box["height"]
    for name in ("usr", "srv"):
        cell = (
            page.locator(".cell.deep0").filter(has=page.get_by_text(name, exact=True)).locator("rect").bounding_box()
        )
        share = cell["width"] * cell["height"] / area
        assert share == pytest.approx(told[name] / sum(told.values()), abs=0.02)
    page.get_by_text("As a table").click()
    table = page.locator(".as-table tbody tr").first.inner_text().split()
    assert table[0] == max(told, key=lambda name: told[name])


def test_the_keys_of_the_treemap(visitor: Visitor) -> None:
    page = visitor.image(view="sizes")
    page.locator(".treemap").focus()
    assert "/srv" in page.locator(".treemap-told").inner_text(), "the largest one"
    page.keyboard.press("Enter")
    page.wait_for_url("**path=/srv**")
    visitor.settled()
    assert page.evaluate("document.activeElement.classList.contains('treemap')")
    first = page.locator(".treemap-told").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator(".treemap-told").inner_text() != first
    page.keyboard.press("Backspace")
    page.wait_for_url(lambda url: "path=" not in url)


def test_waste_and_ghosts(visitor: Visitor, answer: Any) -> None:
    page = visitor.image(view="waste")
    told = answer("waste", image=WEB)
    assert page.locator(".count .figure").first.inner_text() == f"{100 * told['efficiency']:.0f} %"
    again = page.locator(".part").filter(has_text="Written again")
    assert "/srv/app/static/hero.png" in again.inner_text()
    ghosts = page.locator(".part").filter(has_text="Hidden entries")
    assert "/var/lib/apt/lists" in ghosts.inner_text()
    ghosts.get_by_role("link", name="/srv/app/.env").first.click()
    page.locator(".text").get_by_text("DATABASE_URL").wait_for()


def test_details(visitor: Visitor) -> None:
    page = visitor.image(view="details")
    text = page.locator(".view.details").inner_text()
    for words in ("uvicorn main:app", "/srv/app", "8000/tcp", "PYTHONUNBUFFERED", "org.opencontainers.image.title"):
        assert words in text
    assert page.locator(".view.details .moment").count() == 12
    page.get_by_label("Show the files of layer 7").click()
    assert state(page)["layer"] == "7"


def test_search_in_an_image_and_in_all(visitor: Visitor) -> None:
    page = visitor.image()
    page.keyboard.press("/")
    page.keyboard.type("*.onnx")
    page.keyboard.press("Enter")
    page.locator(".found").wait_for()
    assert state(page) == {"image": WEB, "view": "search", "q": "*.onnx"}
    assert "/srv/app/models/ranking.onnx" in page.locator(".found").inner_text()
    page.get_by_role("link", name="search all images").click()
    page.locator(".found .pill").first.wait_for()
    assert page.locator(".found li").count() == 1, "one path"
    assert page.locator(".found .version").count() == 2, "in two versions"
    assert {"shop/web:1.4", "shop/web:1.5"} <= set(page.locator(".found .pill span:last-child").all_inner_texts())
    page.locator(".found .pill").filter(has_text="shop/web:1.5").click()
    visitor.settled()
    assert state(page) == {
        "image": "shop/web:1.5",
        "platform": state(page)["platform"],
        "path": "/srv/app/models/ranking.onnx",
    }
    page.get_by_label("Search files by name").fill("*.env")
    page.keyboard.press("Enter")
    page.get_by_text("Nothing is named like").wait_for()
    page.get_by_label("hidden entries").check()
    page.locator(".found .path.gone").get_by_text(".env").wait_for()
    assert "removed by layer 8" in page.locator(".found .pill").last.inner_text()
    page.get_by_label("Search files by name").fill("nothing-has-this-name")
    page.keyboard.press("Enter")
    page.get_by_text("Nothing is named like").wait_for()


# the address is the state


def test_back_and_forward_and_deep_links(visitor: Visitor, visitors: Callable[..., Visitor]) -> None:
    page = visitor.see("?repository=shop/web")
    page.get_by_role("link", name="1.4").click()
    visitor.settled()
    page.get_by_role("link", name="Sizes").click()
    page.locator(".treemap").wait_for()
    page.get_by_role("link", name="Files").click()
    page.locator("[role=treeitem]").filter(has_text="etc").click()
    page.locator("[role=treeitem]").filter(has_text="passwd").click()
    visitor.settled()
    here = page.url
    assert state(page) == {"image": WEB, "path": "/etc/passwd"}
    other = visitors()
    other.page.goto(here)
    other.settled()
    assert other.page.locator("[role=treeitem][aria-selected=true] .what").inner_text() == "passwd"
    for _ in range(3):
        page.go_back()
    page.locator(".treemap").wait_for()
    page.go_back()
    page.locator("[role=tree]").wait_for()
    page.go_back()
    page.locator("td.tag").first.wait_for()
    for _ in range(5):
        page.go_forward()
    visitor.settled()
    assert page.url == here
    assert page.locator(".side .crumbs strong").inner_text() == "passwd"


def test_links_open_in_new_tabs(visitor: Visitor) -> None:
    page = visitor.see("?repository=shop/web")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="1.5").click(modifiers=["Control"])
    opened.value.wait_for_load_state()
    assert state(opened.value) == {"image": "shop/web:1.5"}
    assert state(page) == {"repository": "shop/web"}
    opened.value.close()
    visitor.wrong.clear()


# errors


ERRORS = {
    "?image=shop/none:1": "none",
    "?repository=shop/none": "none",
    "?image=shop/web:1.4&view=compare&other=shop/none:1": "none",
    "?image=shop/web:1.4&path=/no/such/path": "does not have this path",
    "?image=shop/web:1.4&layer=99&view=unknown&path_b64=%2Fw%3D%3D": "",
    "?image=%00%00&view=files": "",
}


def test_an_error_says_what_to_do(visitor: Visitor) -> None:
    for query, words in ERRORS.items():
        page = visitor.see(query)
        assert words in page.locator("main").inner_text()
        assert page.locator(".notice").count() or page.locator("[role=tree]").count(), query
    # the browser notes each answer of 400 and above
    visitor.wrong = [one for one in visitor.wrong if "Failed to load resource" not in one]


def test_a_server_that_is_gone_is_asked_again(visitor: Visitor) -> None:
    page = visitor.image()
    page.route("**/explore/api/waste*", lambda route: route.abort())
    page.get_by_role("link", name="Waste").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "does not answer" in alert.inner_text()
    assert "still running" in alert.inner_text()
    page.unroute("**/explore/api/waste*")
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("of the bytes are visible").wait_for()
    visitor.wrong = [one for one in visitor.wrong if "Failed to load resource" not in one]


def test_work_that_takes_long_shows_how_far_it_is(visitor: Visitor) -> None:
    page = visitor.image()
    answers = [
        {"working": {"what": "reading layer 3 of 7", "done": 1, "total": 4, "percent": 25, "retry_ms": 1500}},
        {"working": {"what": "reading layer 4 of 7", "done": 2, "total": 4, "percent": None, "retry_ms": 100}},
    ]

    def late(route: Any) -> None:
        if answers:
            route.fulfill(status=202, json=answers.pop(0))
        else:
            route.continue_()

    page.route("**/explore/api/waste*", late)
    page.get_by_role("link", name="Waste").click()
    page.get_by_text("Reading layer 3 of 7").wait_for()
    assert page.locator("progress").first.get_attribute("value") == "25"
    page.get_by_text("of the bytes are visible").wait_for()
    assert answers == []


def test_users_log_in_to_see_more(browser: Any, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", "shop/web:1", [[("a", b"a")]])
    write_layout(tmp_path / "layout", "secret/plans:1", [[("b", b"b")]])
    assert lamina("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store").returncode == 0
    users, rules, cache = tmp_path / "users", tmp_path / "rules.toml", {"XDG_CACHE_HOME": str(tmp_path)}
    made = lamina(
        "passwd", str(users), "ann", "--password-stdin", "--cost", "4", root=tmp_path, input=b"a long secret"
    )
    assert made.returncode == 0, made.stderr
    rules.write_text(RULES)
    words = ["serve", "--port", "0", "--htpasswd", str(users), "--access", str(rules), "--state-dir", str(tmp_path)]
    with running(*words, root=tmp_path / "store", env={**os.environ, **cache}) as server:
        assert server.stdout is not None
        found = re.search(rb"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found
        address = found[0].decode()
        with browser.new_context(http_credentials={"username": "ann", "password": "a long secret"}) as context:
            context.add_init_script(WATCH)
            visitor = Visitor(context, address)
            page = visitor.see()
            assert page.locator(".lines").inner_text().split()[0] == "shop/web"
            assert "secret" not in page.locator("main").inner_text()
            page.get_by_role("link", name="Log in").click()
            page.locator(".user").wait_for()
            visitor.settled()
            assert page.locator(".user").inner_text() == "ann"
            assert "secret/plans" in page.locator(".lines").inner_text()
        wrong = [one for one in visitor.wrong if "401" not in one]
        assert wrong == []


def test_ui_shows_the_one_image_that_was_named(browser: Any, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", "app", [[("a", b"a")], [("b", b"b")]])
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    with running("ui", f"oci:{tmp_path}/layout:app", root=tmp_path, env={**os.environ, **cache}) as server:
        assert server.stdout is not None
        found = re.search(rb"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found
        with browser.new_context() as context:
            context.add_init_script(WATCH)
            visitor = Visitor(context, found[0].decode())
            page = visitor.see()
            page.locator("[role=tree]").wait_for()
            assert state(page) == {"image": f"oci:{tmp_path}/layout:app"}
            assert rows(page) == ["a", "b"]
            assert page.locator(".pull").count() == 0, "nobody can pull from here"
            assert page.locator(".slab").count() == 2
        assert visitor.wrong == []
