"""Settings of downloads: what can't work is refused, and who gets the password is the operator's word alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import tool
from updated.agent.download import open_http
from updated.config import DownloadSettings, ServerSettings, Settings, load, shown
from updated.errors import ErrorCode, LocalError


def loaded(folder: Path, download: str) -> Settings:
    (folder / "updated.toml").write_text(f"[download]\n{download}\n")
    return load(folder / "updated.toml", {}).settings


def test_limit_below_the_lowest_rate_is_refused(tmp_path: Path) -> None:
    """A limit that makes every download too slow is a mistake in the settings, and said to be one."""
    for download in ("max_bytes_per_sec = 1023", "max_bytes_per_sec = 5000\nmin_bytes_per_sec = 5001"):
        with pytest.raises(LocalError) as caught:
            loaded(tmp_path, download)
        assert caught.value.code is ErrorCode.CONFIG
        assert "download.max_bytes_per_sec" in caught.value.message
    for download in ("max_bytes_per_sec = 1024", "max_bytes_per_sec = 10\nmin_bytes_per_sec = 0", "user = 'x'"):
        loaded(tmp_path, download)


@pytest.mark.parametrize("host", ["https://mirror.example", "mirror.example/x", "mirror.example:443", "*.example", ""])
def test_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    """What no host is called would never be met: better told than found out."""
    with pytest.raises(LocalError) as caught:
        loaded(tmp_path, f'credential_hosts = ["mirror.example", "{host}"]')
    assert "download.credential_hosts" in caught.value.message


def test_hosts_are_read(tmp_path: Path) -> None:
    """Names and addresses are taken."""
    hosts = ("Mirror.example", "192.0.2.1", "2001:db8::1")
    assert loaded(tmp_path, f"credential_hosts = {list(hosts)}").download.credential_hosts == hosts


@pytest.mark.parametrize(
    "proxy",
    [
        "", "proxy.example:3128", "socks5://proxy.example", "http://", "http://:3128", "http://[::1", "http://p:x",
        "http://p:0", "http://p:65536", "http://a..b:1", "http://p\\u0000:1", "//proxy.example", "http://u:hush@",
        "http://u:hush@[::1]:1", "http://hush@p:1",
    ],
)  # fmt: skip
def test_proxy_that_is_none_is_refused(tmp_path: Path, proxy: str) -> None:
    """It is told when the file is read, not when the first download fails; a password in it isn't repeated."""
    (tmp_path / "updated.toml").write_text(f'[server]\nproxy = "{proxy}"\n')
    with pytest.raises(LocalError) as caught:
        load(tmp_path / "updated.toml", {})
    assert caught.value.code is ErrorCode.CONFIG
    assert "server.proxy" in caught.value.message
    assert "hush" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "proxy", ["http://p:3128", "https://proxy.example", "http://[::1]:1", "http://bücher.example:3128/"]
)
def test_proxy_is_read(tmp_path: Path, proxy: str) -> None:
    """Names and addresses, with an account beside them; a client can be made with each."""
    account = 'proxy_user = "host"\nproxy_password = "hush"\n'
    (tmp_path / "updated.toml").write_text(f'[server]\nproxy = "{proxy}"\n{account}')
    settings = load(tmp_path / "updated.toml", {}).settings
    assert settings.server.proxy == proxy
    with open_http(settings):
        pass


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """What `config show` prints ends up in tickets: the passwords don't, everything else does."""
    proxy = 'proxy = "http://proxy.example:3128"\nproxy_user = "host"\nproxy_password = "hush"\n'
    secrets = f'[server]\n{proxy}[download]\nuser = "fleet"\npassword = "hush"\n'
    (tmp_path / "updated.toml").write_text(secrets)
    for how in ([], ["--json"]):
        command = [*tool("update-ctl"), "config", "show", "--config", str(tmp_path / "updated.toml"), *how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "hush" not in done.stdout
        assert "http://proxy.example:3128" in done.stdout
        assert "fleet" in done.stdout
    plain = shown(Settings(server=ServerSettings(proxy="http://p:1")))
    assert (plain["server.proxy"], plain["download.password"]) == ("http://p:1", "")


def sends_password(url: str, *, anonymous: bool = False, server: str = "https://Updates.example:8443/v1/") -> bool:
    """Return whether a request there carries user and password."""
    settings = Settings(
        server=ServerSettings(url=server),
        download=DownloadSettings(
            user="fleet", password="secret", credential_hosts=("Mirror.example", "bücher.example")
        ),
    )
    with open_http(settings, anonymous=anonymous) as http:
        request = http.build_request("GET", url)
        if http.auth is None:
            return False
        return "authorization" in next(http.auth.auth_flow(request)).headers


@pytest.mark.parametrize(
    "url", ["https://updates.example/p", "https://MIRROR.example:8443/p", "https://xn--bcher-kva.example/p"]
)
def test_password_goes_to_the_operators_hosts(url: str) -> None:
    """The update server's host and those that the settings name get user and password, and in the clear nobody."""
    assert sends_password(url)
    assert not sends_password(url.replace("https:", "http:"))
    assert not sends_password(url, anonymous=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/p",
        "https://updates.example.evil.example/p",
        "https://x.mirror.example/p",
        "https://example/",
    ],
)
def test_password_goes_to_nobody_else(url: str) -> None:
    """A host that only the server's answer names gets neither."""
    assert not sends_password(url)


@pytest.mark.parametrize("server", ["", "disabled", "https://[::1/"])
def test_without_a_server_nobody_is_trusted(server: str) -> None:
    """No server, or a URL that is none, means no host, not every host."""
    assert not sends_password("https://updates.example/p", server=server)
    assert sends_password("https://mirror.example/p", server=server)
