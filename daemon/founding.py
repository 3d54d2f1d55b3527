"""Who founds the cluster, by etcd's flags and etcd's rules: names, peer URLs, ids.

Pure but for the look-up of names, which is handed in. Invariant: a founding that is returned has this node in it, with
the URLs it advertises.
"""

from collections.abc import Callable, Mapping

from daemon.settings import Settings
from protocol.addresses import parse_url
from protocol.config import cluster_id_of, member_id_of
from protocol.errors import ConfigError
from protocol.identity import Founding, FoundingMember

Resolve = Callable[[str], frozenset[str]]
"""Returns the IP addresses of a name; none where it has none."""


def advertised_peer_urls(settings: Settings) -> tuple[str, ...]:
    """Return what other members dial."""
    return settings.parts("initial-advertise-peer-urls")


def founding_of(settings: Settings, resolve: Resolve) -> Founding:
    """Return the cluster that the flags found.

    Raises:
        ConfigError: --initial-cluster is wrong, or does not have this node as it advertises itself.
    """
    name, token = settings.text("name"), settings.text("initial-cluster-token")
    ours = advertised_peer_urls(settings)
    if "initial-cluster" in settings.given:
        named = parse_initial_cluster(settings.text("initial-cluster"), settings.told("initial-cluster"))
    else:
        named = {name: ours}
    if name not in named:
        raise ConfigError(f'couldn\'t find local name "{name}" in the initial cluster configuration')
    _check_own(named[name], ours, resolve)
    founders = []
    for each, urls in named.items():
        founders.append(FoundingMember(member_id_of(list(urls), token), each, urls, ()))
    cluster = cluster_id_of([founder.member for founder in founders])
    return Founding(cluster, tuple(founders))


def parse_initial_cluster(text: str, told: str) -> Mapping[str, tuple[str, ...]]:
    """Return the peer URLs of each name.

    Raises:
        ConfigError: a part is no NAME=URL, or two members share a URL.
    """
    named: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, url = part.partition("=")
        if not equals or not name:
            raise ConfigError(f"{told}: {part!r} is not NAME=PEER-URL")
        try:
            address = parse_url(url)
        except ValueError as error:
            raise ConfigError(f"{told}: {name}: {error}") from None
        if address.is_unix:
            raise ConfigError(f"{told}: {name}: members speak to each other over TCP only: {url}")
        if owner.setdefault(url, name) != name:
            raise ConfigError(f"{told}: {name} and {owner[url]} share the URL {url}; give each its own")
        named.setdefault(name, []).append(url)
    if not named:
        raise ConfigError(f"{told}: names no member")
    return {name: tuple(urls) for name, urls in named.items()}


def _check_own(listed: tuple[str, ...], advertised: tuple[str, ...], resolve: Resolve) -> None:
    """Refuse a node whose own words about itself differ; names and the addresses they stand for are alike."""

    def places(urls: tuple[str, ...]) -> set[tuple[str, frozenset[str], int]]:
        parsed = [parse_url(url) for url in urls]
        return {(each.scheme, resolve(each.host) or frozenset({each.host}), each.port) for each in parsed}

    if set(listed) == set(advertised) or places(listed) == places(advertised):
        return
    missing = sorted(set(listed) - set(advertised))
    if missing:
        raise ConfigError(
            f"--initial-cluster has {','.join(missing)} but missing from "
            f"--initial-advertise-peer-urls={','.join(advertised)}"
        )
    extra = sorted(set(advertised) - set(listed))
    raise ConfigError(f"--initial-advertise-peer-urls has {','.join(extra)} but missing from --initial-cluster")
