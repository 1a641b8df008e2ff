"""Whose credential goes where: the body's to the hub, the server's key nowhere; who is a tenant."""

import pytest

from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.secret import Secret
from lorax_serve.server.tenants import ANONYMOUS
from served_hub import BODIES, TOKEN, Serve

SERVER_KEY = "sk-key-of-this-server"


@pytest.mark.parametrize("path", BODIES)
async def test_the_bodys_token_is_the_adapters(serve: Serve, path: str) -> None:
    async with serve() as served:
        assert (await served.post(path, "org/closed", api_token=TOKEN)).status == 200
        closed = await served.post(path, "org/closed")
        absent = await served.post(path, "org/absent")
        assert closed.status == absent.status == (404 if path.startswith("/v1/") else 424)
        assert (await closed.text()).replace("closed", "absent") == await absent.text()
        assert TOKEN not in str(served.logs) + await closed.text() + repr(served.engine.requests)


async def test_who_proves_something_is_a_tenant_and_nobody_else(serve: Serve) -> None:
    """A made-up token for each request gets no share each; prompts of all of them stay apart."""
    async with serve() as served:
        for name, token in [
            ("org/closed", TOKEN),
            ("org/open", TOKEN),
            ("org/open", "made-up-1"),
            ("org/open", "made-up-2"),
            ("org/open", None),
            ("org/closed", TOKEN),
        ]:
            reply = await served.post("/generate", name, api_token=token)
            assert reply.status == 200, await reply.text()
        merge = {"ids": ["org/open", "org/closed"], "weights": [1, 1]}
        parameters = {"adapter_source": "hub", "merged_adapters": merge, "api_token": TOKEN}
        body = {"inputs": "x", "parameters": parameters}
        assert (await served.client.post("/generate", json=body)).status == 200
        requests = served.engine.requests
        proven = requests[0].tenant
        assert proven != ANONYMOUS
        assert [r.tenant == proven for r in requests] == [True, *[False] * 4, True, True]
        assert {r.tenant for r in requests[1:5]} == {ANONYMOUS}
        salts = [r.cache_salt for r in requests]
        assert {salts[n] for n in (0, 1, 5, 6)} == {salts[0]}
        assert len(set(salts)) == 4, "of TOKEN, of two made-up ones, of nobody"
        reply = await served.post("/v1/embeddings", "org/closed", api_token=TOKEN)
        assert reply.status == 200, await reply.text()
        (pooled,) = served.engine.pooled
        assert (pooled.tenant, pooled.cache_salt) == (proven, salts[0])


async def test_the_operators_token_makes_nobody_a_tenant(serve: Serve) -> None:
    async with serve(operator_token=TOKEN) as served:
        for token in (None, TOKEN):
            reply = await served.post("/generate", "org/closed", api_token=token)
            assert reply.status == 200, await reply.text()
        first, second = served.engine.requests
        assert (first.tenant, first.cache_salt) == (ANONYMOUS, "")
        assert second.tenant != ANONYMOUS


@pytest.mark.parametrize("path", BODIES)
async def test_server_key_not_forwarded(serve: Serve, path: str) -> None:
    async with serve() as served:
        assert (await served.post(path, "org/open", key=SERVER_KEY)).status == 200
        await served.post(path, "org/closed", key=TOKEN)
        await served.post(path, "org/closed", key=SERVER_KEY, api_token=TOKEN)
        assert {s.authorization for s in served.hub.seen} == {None, f"Bearer {TOKEN}"}
        assert SERVER_KEY not in str(served.logs)


async def test_the_header_is_the_adapters_where_the_operator_says_so(serve: Serve) -> None:
    async with serve(bearer_is_adapter_token=True) as served:
        assert (await served.post("/generate", "org/closed", key=TOKEN)).status == 200
        served.hub.seen.clear()
        refused = await served.post("/generate", "org/closed", key=TOKEN, api_token="hf_wrong")
        assert refused.status == 424
        assert {s.authorization for s in served.hub.seen} == {"Bearer hf_wrong"}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_the_operators_key_is_nobodys_adapter_token(serve: Serve, path: str) -> None:
    admin_key = AdminKey(Secret(SERVER_KEY))
    async with serve(bearer_is_adapter_token=True, admin_key=admin_key) as served:
        assert (await served.post(path, "org/open", key=SERVER_KEY)).status == 200
        await served.post(path, "org/closed", key=SERVER_KEY)
        await served.post(path, "org/closed", key=TOKEN)
        assert {s.authorization for s in served.hub.seen} == {None, f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", ["a b", "a\nHost: x", "ü", "x" * 5000, "\x00"])
@pytest.mark.parametrize("path", BODIES)
async def test_what_no_token_is(serve: Serve, path: str, token: str) -> None:
    async with serve() as served:
        reply = await served.post(path, "org/open", api_token=token)
        assert reply.status in (400, 422)
        assert "api_token" in (text := await reply.text())
        assert token not in text
        assert served.hub.seen == []
