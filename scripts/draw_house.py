"""Draw the picture of the house in docs/architecture.md from what the code imports: python scripts/draw_house.py

An arrow says "imports". Those that follow from others are left out, and so are the small files of the engine that
everybody may import.
"""

import ast
from collections import defaultdict

from image_classifier.engine.project import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "src" / "image_classifier"
PAGE = PROJECT_ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by scripts/draw_house.py -->\n", "<!-- /drawn -->\n"
ROOMS_OF_ONE_FILE = ("checkpoint", "export")  # of the engine; its other files are the small ones

Graph = dict[str, set[str]]


def room_of(path: tuple[str, ...]) -> str | None:
    """The room that a module, given by its path within the package, belongs to; None for a small file."""
    if not path:
        return None
    if path[0] != "engine":
        return path[0]
    if len(path) < 2:
        return None
    is_room = (PACKAGE / "engine" / path[1]).is_dir() or path[1] in ROOMS_OF_ONE_FILE
    return f"engine/{path[1]}" if is_room else None


def imports_between_rooms() -> Graph:
    """Which rooms each room imports, wherever the import stands in a file."""
    graph: Graph = defaultdict(set)
    for file in sorted(PACKAGE.rglob("*.py")):
        room = room_of(file.relative_to(PACKAGE).with_suffix("").parts)
        if room is None or file.name == "__init__.py":
            continue
        graph[room]  # also one that imports nothing
        for node in ast.walk(ast.parse(file.read_text())):
            for name in imported_names(node):
                other = room_of(tuple(name.split(".")[1:]))
                if name.startswith(PACKAGE.name) and other not in (None, room):
                    graph[room].add(str(other))
    return graph


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def without_detours(graph: Graph) -> Graph:
    """The graph without the arrows that a longer way implies."""
    return {
        room: {other for other in others if not any(other in reachable(graph, between) for between in others - {other})}
        for room, others in graph.items()
    }


def drawing(graph: Graph) -> str:
    """The graph for Mermaid, which GitHub and editors show as a picture."""
    lines = ["```mermaid", "flowchart TD"]
    for title, is_behind in (("in front: yours", False), ("behind: the engine", True)):
        lines.append(f'  subgraph {"engine" if is_behind else "front"}["{title}"]')
        rooms = [room for room in sorted(graph) if room.startswith("engine/") == is_behind]
        lines += [f'    {identifier(room)}["{label(room)}"]' for room in rooms]
        lines.append("  end")
    for room, others in sorted(without_detours(graph).items()):
        lines += [f"  {identifier(room)} --> {identifier(other)}" for other in sorted(others)]
    return "\n".join([*lines, "```", ""])


def identifier(room: str) -> str:
    return room.replace("/", "_")


def label(room: str) -> str:
    name = room.removeprefix("engine/")
    return f"{name}/" if (PACKAGE / room).is_dir() else f"{name}.py"


def redrawn(page: str) -> str:
    """The page with the picture as the code is now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{drawing(imports_between_rooms())}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
