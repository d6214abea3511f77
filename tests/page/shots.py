"""Takes the pictures of the page for the documentation: `python -m tests.page.shots docs`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.page.browser import chromium
from tests.page.stage import FastClock, Stage


def pause(seconds: float) -> None:
    """Let what is shown last for a while: the pictures are of times."""
    threading.Event().wait(seconds)


def play(stage: Stage, size: int) -> None:
    """Let a run of some nodes form, lose nodes, and grow again."""
    blocks = max(size // 16, 1) if size < 1000 else 10
    names = [f"node{number}" for number in range(1, size + 1)]

    def labels(name: str) -> dict[str, str]:
        block = int(name.removeprefix("node")) * blocks // (size + 1)
        return {"block": f"{block + 1}"} if size > 8 else {}

    third = max(size // 3, 1)
    for begin in range(0, size, third):
        stage.attach(names[begin : begin + third], labels)
        stage.join(names[begin : begin + third])
        pause(0.8)
    pause(6)
    lost = names[size // 2 : size // 2 + max(size // 100, 1)]
    stage.end(lost)
    pause(1.2)
    stage.join()
    pause(5)
    new = [f"node{size + number}" for number in range(1, len(lost) + 3)]
    stage.attach(new, labels)
    stage.join(new)
    pause(1.5)
    stage.join()
    pause(4)
    stage.cut([names[1]])
    stage.end([names[-1]])
    pause(2)


def main() -> None:
    """Take a picture of each size, light and dark."""
    folder = Path(sys.argv[1])
    for size in map(int, sys.argv[2:] or ("4", "64", "4000")):
        stage = Stage(
            min_nodes=max(size // 2, 1),
            max_nodes=size,
            clock=FastClock(60),
            last_call_s=0.3 if size < 1000 else 4,
        )
        try:
            with chromium(1360, 1120) as browser:
                browser.get(f"{stage.url}/")
                play(stage, size)
                for theme in ("light", "dark"):
                    browser.execute_script(
                        "localStorage.setItem('quorate-theme', arguments[0])", theme
                    )
                    browser.refresh()
                    pause(1.5)
                    browser.save_screenshot(str(folder / f"page-{size}-{theme}.png"))
                for entry in browser.get_log("browser"):
                    print(entry["message"])
        finally:
            stage.close()


if __name__ == "__main__":
    main()
