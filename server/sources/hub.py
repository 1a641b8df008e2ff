"""Adapters in repositories of the Hugging Face hub.

Addresses are huggingface_hub's. Its blocking calls are not used: a thread that waits for a stalled
hub cannot be taken back, a reply is read however long it is, and its transport would add a
credential from a .netrc that no caller gave.

API: https://huggingface.co/docs/hub/api.
"""

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from huggingface_hub import hf_hub_url
from msgspec import Struct

from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.http_files import HttpFile, fetch_file
from lorax_serve.server.sources.http_replies import check_status, transport_errors
from lorax_serve.server.sources.http_session import open_session
from lorax_serve.server.sources.hub_id import DEFAULT_ENDPOINT, HubId, parse_hub_id
from lorax_serve.server.sources.layout import adapter_folder
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    OnBytes,
    RemoteAdapter,
    RemoteFile,
    SourceOffline,
    SourceUnavailable,
)
from lorax_serve.server.store.content import (
    CONFIG_FILE,
    is_adapter_file,
    is_kept_file,
    is_shard,
)
from lorax_serve.server.version import version

STALL_SECONDS: Final = 20.0
_MAX_INFO_BYTES: Final = 8 * 2**20


class _Lfs(Struct, frozen=True):
    sha256: str


class _Sibling(Struct, frozen=True):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Info(Struct, frozen=True):
    """GET /api/models/{repository}/revision/{revision}?blobs=true, as far as it counts."""

    id: str
    sha: str
    siblings: tuple[_Sibling, ...]
    private: bool = True
    gated: bool | str = False


class HubSource:
    """`allowed` are globs over repositories: None lets requests name any. The operator's token is
    used where a request brings none, and only for repositories that `allowed` names.
    `with_templates`: chat templates are among an adapter's files.
    """

    name = "hub"

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        allowed: Sequence[str] | None = None,
        operator_token: str | None = None,
        stall_seconds: float = STALL_SECONDS,
        retries: Retries | None = None,
        offline: bool = False,
        with_templates: bool = False,
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._allowed = allowed
        self._operator_token = operator_token
        self._stall_seconds = stall_seconds
        self._retries = retries or Retries()
        self._offline = offline
        self._with_templates = with_templates
        self._opened: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        return urlsplit(self._endpoint).netloc

    def check_id(self, adapter_id: str) -> None:
        parse_hub_id(adapter_id)

    async def resolve(self, adapter_id: str, token: str | None) -> RemoteAdapter:
        asked = parse_hub_id(adapter_id)
        if not self._is_allowed(asked.repository):
            raise NotFoundOrForbidden("the operator does not allow it")
        if self._offline:
            raise SourceOffline("the hub is not to be asked")
        headers = self._headers(asked.repository, token)
        info = await self._retries.run(lambda: self._info(asked, headers))
        public = not info.private and not info.gated
        if not public:  # what a repository is may be known to those who may not have it
            await self._retries.run(lambda: self._check_access(info.id, headers))
        folder = _folder(info)
        files = tuple(_files(info, folder, with_templates=self._with_templates))
        return RemoteAdapter(self.name, info.id, info.sha, files, public, folder)

    async def download(
        self,
        adapter: RemoteAdapter,
        file: RemoteFile,
        destination: Path,
        token: str | None,
        on_bytes: OnBytes,
    ) -> None:
        url = hf_hub_url(
            adapter.repository,
            adapter.folder + file.name,
            revision=adapter.revision,
            endpoint=self._endpoint,
        )
        headers = self._headers(adapter.repository, token)
        wanted = HttpFile(url=url, headers=headers, num_bytes=file.num_bytes)
        await fetch_file(self._session(), wanted, destination, on_bytes, self._retries)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _info(self, asked: HubId, headers: dict[str, str]) -> _Info:
        address = f"{self._endpoint}/api/models/{asked.repository}"
        if asked.revision is not None:
            address += f"/revision/{quote(asked.revision, safe='')}"
        info = _read_info(await self._get(address, headers, {"blobs": "true"}))
        if not self._is_allowed(info.id):  # it was renamed
            raise NotFoundOrForbidden("the operator does not allow what it is called now")
        return info

    async def _check_access(self, repository: str, headers: dict[str, str]) -> None:
        """Whether the files may be had. Raises NotFoundOrForbidden."""
        await self._get(f"{self._endpoint}/api/models/{repository}/auth-check", headers, {})

    async def _get(self, url: str, headers: dict[str, str], query: dict[str, str]) -> bytes:
        """A small reply's body. Raises SourceError."""
        with transport_errors():
            async with self._session().get(url, headers=headers, params=query) as reply:
                check_status(reply)
                try:
                    await reply.content.readexactly(_MAX_INFO_BYTES)
                except asyncio.IncompleteReadError as error:
                    return error.partial
        raise SourceUnavailable("the reply is too long")

    def _headers(self, repository: str, token: str | None) -> dict[str, str]:
        """With this caller's credential or none: never one that the machine happens to have."""
        if token is None and self._allowed is not None and self._is_allowed(repository):
            token = self._operator_token
        headers = {"User-Agent": f"lorax-serve/{version()}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _is_allowed(self, repository: str) -> bool:
        return self._allowed is None or any(
            fnmatchcase(repository, pattern) for pattern in self._allowed
        )

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = open_session(self._endpoint, stall_seconds=self._stall_seconds)
        return self._opened


def _read_info(body: bytes) -> _Info:
    """Raises SourceUnavailable for an answer that is none."""
    try:
        info = msgspec.json.decode(body, type=_Info)
        named = parse_hub_id(f"{info.id}@{info.sha}")
    except (msgspec.MsgspecError, UnicodeDecodeError, ServeError):
        raise SourceUnavailable("the reply makes no sense") from None
    if named.repository != info.id or named.revision != info.sha:
        raise SourceUnavailable("the reply makes no sense")
    return info


def _folder(info: _Info) -> str:
    paths = {sibling.rfilename for sibling in info.siblings}
    return adapter_folder(lambda folder: folder + CONFIG_FILE in paths)


def _files(info: _Info, folder: str, *, with_templates: bool) -> list[RemoteFile]:
    """Those of the fixed set directly in `folder`, and shards. Raises SourceUnavailable where one
    has no size.
    """
    files = []
    for sibling in info.siblings:
        if not sibling.rfilename.startswith(folder):
            continue
        name = sibling.rfilename.removeprefix(folder)
        is_wanted = is_kept_file(name) if with_templates else is_adapter_file(name)
        if is_wanted or is_shard(name):
            if sibling.size is None or sibling.size < 0:
                raise SourceUnavailable("the reply has no sizes")
            sha256 = None if sibling.lfs is None else sibling.lfs.sha256
            files.append(RemoteFile(name, sibling.size, sha256))
    return sorted(files, key=lambda file: file.name)
