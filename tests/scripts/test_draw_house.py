"""The picture of the house: that it is current, and that it says what import-linter's graph says."""

from collections import defaultdict

import draw_house
import grimp


def test_the_picture_is_current() -> None:
    page = draw_house.PAGE.read_text()
    assert draw_house.redrawn(page) == page, "run: python scripts/draw_house.py"


def test_imports_are_those_of_import_linter() -> None:
    graph = grimp.build_graph("image_classifier", cache_dir=None)
    expected = defaultdict(set)
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            rooms = [draw_house.room_of(tuple(name.split(".")[1:])) for name in (module, other)]
            if None not in rooms and rooms[0] != rooms[1]:
                expected[rooms[0]].add(rooms[1])
    found = {room: others for room, others in draw_house.imports_between_rooms().items() if others}
    assert found == expected and len(found) > 10


def test_arrows_that_follow_from_others_are_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert draw_house.without_detours(graph) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}
