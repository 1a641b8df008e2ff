"""Long work lets others run, and leaves nothing out."""

import asyncio

from lorax_serve.server.turns import in_turns


async def test_others_run_between_items() -> None:
    is_done = False
    num_turns = 0

    async def other() -> None:
        nonlocal num_turns
        while not is_done:
            num_turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    seen = [item async for item in in_turns(range(1000))]
    is_done = True
    await task
    assert seen == list(range(1000))
    assert num_turns >= 10
