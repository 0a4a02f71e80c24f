"""Which hosts may get the login of a registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.remote.site import is_login_host, may_have_login, same_site
from lamina.settings import Settings
from lamina.transfer.connect import RegistryAccess

NEEDED = [
    # registry, the host of its token server
    ("docker.io", "auth.docker.io"),
    ("registry-1.docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    ("registry.hub.docker.com", "auth.docker.io"),
    ("dhi.io", "auth.docker.io"),
    ("ghcr.io", "ghcr.io"),
    ("quay.io", "quay.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("registry.gitlab.example.com", "gitlab.example.com"),
    ("registry.example.com", "gitlab.example.com"),
    ("registry.example.com:5050", "gitlab.example.com"),
    ("registry.example.co.uk", "gitlab.example.co.uk"),
    ("registry.example.com.au", "auth.example.com.au"),
    ("harbor.example.com", "harbor.example.com"),
    ("harbor.example.com", "harbor.example.com:8443"),
    ("demo.goharbor.io", "demo.goharbor.io"),
    ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
    ("public.ecr.aws", "public.ecr.aws"),
    ("gcr.io", "gcr.io"),
    ("eu.gcr.io", "eu.gcr.io"),
    ("europe-docker.pkg.dev", "europe-docker.pkg.dev"),
    ("example.azurecr.io", "example.azurecr.io"),
    ("mcr.microsoft.com", "mcr.microsoft.com"),
    ("registry.redhat.io", "registry.redhat.io"),
    ("registry.digitalocean.com", "api.digitalocean.com"),
    ("rg.fr-par.scw.cloud", "api.scaleway.com"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("nvcr.io", "nvcr.io"),
    ("cgr.dev", "cgr.dev"),
    ("uk-london-1.ocir.io", "uk-london-1.ocir.io"),
    ("example.jfrog.io", "example.jfrog.io"),
    ("docker.cloudsmith.io", "docker.cloudsmith.io"),
    ("codeberg.org", "codeberg.org"),
    ("registry.me.duckdns.org", "gitlab.me.duckdns.org"),
    ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
    ("registry", "registry:5001"),
    ("10.0.0.5:5000", "10.0.0.5"),
    ("[fd00::5]:5000", "[fd00::5]:5001"),
    ("[fe80::5%eth0]:5000", "[fe80::5%eth0]"),
    ("localhost:5000", "127.0.0.1:5001"),
    ("127.0.0.1:5000", "[::1]:5001"),
    ("Registry.Example.COM", "AUTH.example.com."),
]
STRANGERS = [
    ("example.com", "zebra.example\\.example.com"),
    ("example.com", "zebra.example%5c.example.com"),
    ("a.eu.com", "b.eu.com"),
    ("a.gb.net", "b.gb.net"),
    ("a.in.net", "b.in.net"),
    ("a.amplifyapp.com", "b.amplifyapp.com"),
    ("a.azurestaticapps.net", "b.azurestaticapps.net"),
    ("a.dedyn.io", "b.dedyn.io"),
    ("a.service.gov.uk", "b.service.gov.uk"),
    ("ghcr.io", "evil.example"),
    ("example.com", "example.org"),
    ("example.com", "badexample.com"),
    ("example.com", "example.com.evil.org"),
    ("docker.io", "auth.docker.io.evil.org"),
    ("evil.example", "auth.docker.io"),
    ("notdocker.io", "auth.docker.io"),
    ("scw.cloud.evil.org", "api.scaleway.com"),
    # the name above everybody's
    ("mine.github.io", "yours.github.io"),
    ("mine.github.io", "github.io"),
    ("a.co.uk", "b.co.uk"),
    ("a.co.uk", "co.uk"),
    ("a.com.au", "b.com.au"),
    ("a.or.jp", "b.or.jp"),
    ("a.com", "com"),
    ("a.com", "b.com"),
    ("a.io", "b.io"),
    ("111.dkr.ecr.eu-central-1.amazonaws.com", "222.dkr.ecr.eu-central-1.amazonaws.com"),
    ("111.dkr.ecr.eu-central-1.amazonaws.com", "evil.s3.amazonaws.com"),
    ("one.azurecr.io", "two.azurecr.io"),
    ("one.jfrog.io", "two.jfrog.io"),
    ("eu.gcr.io", "gcr.io"),
    ("one.run.app", "two.run.app"),
    ("me.duckdns.org", "you.duckdns.org"),
    ("10-0-0-1.nip.io", "10-0-0-2.nip.io"),
    ("one.westeurope.cloudapp.azure.com", "two.eastus.cloudapp.azure.com"),
    # addresses and names without a dot are a site each
    ("10.0.0.5", "10.0.0.6"),
    ("1.10.0.5", "2.10.0.5"),
    ("[fd00::5]", "[fd00::6]"),
    ("registry", "auth"),
    ("registry", "auth.registry"),
    ("auth.registry", "registry"),
    ("localhost", "example.com"),
    ("example.com", "localhost"),
    ("example.com", "127.0.0.1"),
    ("example.com", "[x"),
    ("a..com", "b..com"),
]


@pytest.mark.parametrize(("registry", "server"), NEEDED)
def test_what_registries_need_works_by_default(registry: str, server: str) -> None:
    assert same_site(registry, server)
    assert may_have_login(registry, server, ())


@pytest.mark.parametrize(("registry", "server"), STRANGERS)
def test_other_sites_get_no_login_unless_the_setting_allows_it(registry: str, server: str) -> None:
    assert not same_site(registry, server)
    assert not may_have_login(registry, server, ())
    assert not may_have_login(registry, server, {(server, registry), ("other", server), (registry, "other")})
    assert may_have_login(registry, server, {(registry, server)})


def test_an_invalid_host_gets_no_login() -> None:
    assert not may_have_login("", "", {("", "")})
    assert not may_have_login("example.com", "", {("example.com", "")})


def test_the_setting_allows_one_registry_and_only_the_port_that_it_names() -> None:
    login_hosts = {("reg.example:5000", "auth.other"), ("reg.example", "auth.other:8443")}
    assert is_login_host("reg.example:5000", "auth.other", login_hosts)
    assert is_login_host("reg.example:5000", "Auth.Other:99", login_hosts)
    assert is_login_host("reg.example", "auth.other:8443", login_hosts)
    assert not is_login_host("reg.example", "auth.other", login_hosts)
    assert not is_login_host("reg.example", "auth.other:8444", login_hosts)
    assert not is_login_host("other", "auth.other", login_hosts)


@given(st.lists(st.sampled_from(["a", "b", "co", "uk", "github", "io", "com"]), min_size=1, max_size=4).map(".".join))
def test_a_host_is_of_its_own_site(host: str) -> None:
    assert same_site(host, host)
    assert same_site(f"{host}:5000", host.upper())


def test_the_setting(tmp_path: Path) -> None:
    def loaded(**environ: str) -> Settings:
        return Settings.load(environ={"HOME": str(tmp_path), **environ}, system_file=str(tmp_path / "system.toml"))

    assert RegistryAccess(loaded()).access.login_hosts == frozenset()
    (tmp_path / "system.toml").write_text('login_hosts = "Reg.example:5000=auth.other, a.example=B.other:8443"\n')
    expected = {("reg.example:5000", "auth.other"), ("a.example", "b.other:8443")}
    assert RegistryAccess(loaded()).access.login_hosts == expected
    assert RegistryAccess(loaded(LAMINA_LOGIN_HOSTS="x.example=y.other")).access.login_hosts == {
        ("x.example", "y.other")
    }
    for bad in ("x.example", "=y", "x=", "x=y=z", "https://x=y", "x=https://y", "a=b,c"):
        with pytest.raises(UsageError, match=r"login_hosts: .* is not REGISTRY=HOST"):
            loaded(LAMINA_LOGIN_HOSTS=bad)
