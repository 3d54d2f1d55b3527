"""Makes what a secured cluster needs: a CA, certificates for servers and clients, lists of revoked ones, CURVE keys.

`python -m tools.keygen ca`, then `server n1 --host 10.0.0.1`, `client alice`, `curve n1`; all of it below `keys/`, or
where `--dir` says. Private keys are readable by their owner only. What is there is kept unless `--force` is given.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from actors.curve import make_keys
from gateway.certificates import Pair, issue, load_pair, load_revoked, make_ca, revoke, write_file, write_pair
from protocol.addresses import parse_url
from protocol.curve_keys import key_file_text

CA_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
REVOKED_DAYS: Final = 30

app = typer.Typer(add_completion=False, help=__doc__)

Directory = Annotated[Path, typer.Option("--dir", help="where keys and certificates are")]
Days = Annotated[float, typer.Option(min=0.01, help="how long it is good for, in days")]
Force = Annotated[bool, typer.Option("--force", help="replace what is there")]
Name = Annotated[str, typer.Argument(help="becomes the name of the files")]


def refuse(reason: str) -> typer.Exit:
    """Print why nothing was made."""
    typer.secho(f"keygen: {reason}", fg=typer.colors.RED, err=True)
    return typer.Exit(2)


def told(path: Path, what: str) -> None:
    """Say what was written."""
    typer.echo(f"{path}  {what}")


def room_for(paths: list[Path], *, force: bool) -> None:
    """See to it that `paths` can be written, and that nothing there is lost by mistake."""
    for path in paths:
        if path.exists() and not force:
            raise refuse(f"{path} is there already; --force replaces it")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


def checked(name: str) -> str:
    """Return a name that may stand in a path."""
    if not name or name.startswith(".") or not all(character.isalnum() or character in "._-@" for character in name):
        raise refuse(f"{name!r} is no name for a file: letters, digits, '.', '_', '-' and '@' only")
    return name


def ca_of(directory: Path) -> Pair:
    """Return the CA of a directory."""
    try:
        return load_pair(directory / "ca.pem", directory / "ca-key.pem")
    except OSError as error:
        raise refuse(f"{error.filename}: {error.strerror}; python -m tools.keygen ca makes a CA") from error
    except ValueError as error:
        raise refuse(str(error)) from error


def keep(pair: Pair, directory: Path, name: str, what: str, *, force: bool) -> None:
    """Put a pair on disk and say so."""
    cert_file, key_file = directory / f"{name}.pem", directory / f"{name}-key.pem"
    room_for([cert_file, key_file], force=force)
    write_pair(pair, cert_file, key_file)
    told(cert_file, f"{what}, good until {pair.certificate.not_valid_after_utc:%Y-%m-%d}")
    told(key_file, "its private key (mode 600)")


@app.command()
def ca(
    name: Annotated[str, typer.Option(help="the CA's common name")] = "actd CA",
    directory: Directory = Path("keys"),
    days: Days = CA_DAYS,
    force: Force = False,
) -> None:
    """Make a CA: ca.pem for everybody who is to trust it, ca-key.pem to issue with; keep that one off the nodes."""
    keep(make_ca(name, days), directory, "ca", "certificate of the CA", force=force)


@app.command()
def server(
    name: Name,
    host: Annotated[list[str], typer.Option(help="a name or IP address that clients dial; repeatable")],
    directory: Directory = Path("keys"),
    days: Days = CERTIFICATE_DAYS,
    force: Force = False,
) -> None:
    """Issue a certificate for a node: NAME.pem and NAME-key.pem, for cert_file and key_file."""
    pair = issue(ca_of(directory), checked(name), host, days, server=True)
    keep(pair, directory, name, f"certificate for {', '.join(host)}", force=force)


@app.command()
def client(
    name: Name,
    host: Annotated[list[str] | None, typer.Option(help="for allowed_hostnames; repeatable")] = None,
    directory: Directory = Path("keys"),
    days: Days = CERTIFICATE_DAYS,
    force: Force = False,
) -> None:
    """Issue a certificate for a client, whose user is NAME: NAME.pem and NAME-key.pem."""
    pair = issue(ca_of(directory), checked(name), host or [], days, client=True)
    keep(pair, directory, name, f"certificate of the client {name}", force=force)


@app.command("revoke")
def revoke_clients(
    names: Annotated[list[str] | None, typer.Argument(help="whose certificates to take back")] = None,
    directory: Directory = Path("keys"),
    days: Days = REVOKED_DAYS,
) -> None:
    """Take certificates back: revoked.pem, for crl_file, with these and those that stood there before.

    Without names the list is only made anew, which it must be before it runs out: nodes let nobody in by an old list.
    """
    path = directory / "revoked.pem"
    issuer = ca_of(directory)
    serials = set(_old_serials(path))
    for name in names or []:
        try:
            pair = load_pair(directory / f"{checked(name)}.pem", directory / f"{name}-key.pem")
        except (OSError, ValueError) as error:
            raise refuse(str(error)) from error
        serials.add(pair.certificate.serial_number)
    write_file(path, revoke(issuer, sorted(serials), days), 0o644)
    told(path, f"{len(serials)} revoked, to be made anew within {days:g} days")


def _old_serials(path: Path) -> list[int]:
    with suppress(FileNotFoundError):
        return load_revoked(path.read_bytes())
    return []


@app.command()
def curve(
    name: Name,
    peer: Annotated[str, typer.Option(help="of a node: the host:port that other members dial")] = "",
    directory: Directory = Path("keys"),
    force: Force = False,
) -> None:
    """Make a CURVE key pair of a node or a ZeroMQ client: NAME.key to give away, NAME.key_secret to keep."""
    if peer:
        try:
            parse_url(f"http://{peer}")
        except ValueError as error:
            raise refuse(f"--peer {peer}: {error}") from error
    keys = make_keys(peer)
    public, secret = directory / f"{checked(name)}.key", directory / f"{name}.key_secret"
    room_for([public, secret], force=force)
    write_file(secret, key_file_text(keys, secret=True), 0o600)
    write_file(public, key_file_text(keys, secret=False), 0o644)
    told(public, "public key, for peer_keys_dir or client_keys_dir of those who are to let it in")
    told(secret, "key pair, for secret_key_file or CurveKeys.load (mode 600)")


if __name__ == "__main__":
    app()
