"""A broker that lets nobody in without a certificate or a password, and nobody do what no ACL allows.

Its plain listener is for those who look on: whoever connects there is a super user.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.e2e.faults.node import QUICK_FAILOVER
from tests.e2e.faults.running import Running
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.server import PROPERTIES

USER: Final = "modelvigil"
PASSWORD: Final = "correct-horse-battery-staple"  # noqa: S105 - of a user that this broker alone knows
HOST: Final = "localhost"
"""The name in the certificate of the broker; it listens at 127.0.0.1."""
ALLOWED_S_MAX: Final = 30.0
"""A busy machine may take some seconds over it."""
_PROTOCOLS: Final = "listener.security.protocol.map"
_JAAS: Final = "org.apache.kafka.common.security"


class Certificates:
    """An authority, and what it has issued: to the broker, and to a client. Files below a directory."""

    def __init__(self, directory: Path, client: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        self.authority = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        self.stranger = directory / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(self.stranger)
        self.broker = _kept(authority.issue_cert(HOST), directory / "broker.pem")
        self.client = _kept(authority.issue_cert(f"{client}@example.org", common_name=client), directory / "client.pem")


def _kept(issued: trustme.LeafCert, path: Path) -> Path:
    """Write key and certificates to one file; Java reads keys as PKCS 8 only."""
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(b"".join([pem, *(each.bytes() for each in issued.cert_chain_pems)]))
    path.chmod(0o600)
    return path


class SecuredBroker(Running):
    """One `LocalBroker` with TLS, SASL and ACLs. As a context manager it is started on entry and stopped on exit.

    Args:
        directory: for certificates.
        user: has the password `PASSWORD` (PLAIN and SCRAM-SHA-512), and a client certificate.
    """

    def __init__(self, directory: Path, user: str = USER) -> None:
        self.user = user
        self.certificates = Certificates(directory, user)
        self._broker = _Locked(self.certificates, user)

    def begin(self) -> None:
        """Start the broker, and tell it the user's SCRAM credentials."""
        self._broker.start()
        credentials = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        upsertion = UserScramCredentialUpsertion(self.user, credentials, PASSWORD.encode())
        admin = self.admin()
        for answer in admin.alter_user_scram_credentials([upsertion]).values():
            answer.result(10)

    def end(self) -> None:
        """Stop it."""
        self._broker.kill()
        self._broker.stop()

    def admin(self) -> AdminClient:
        """Return a client of a super user."""
        return AdminClient({"bootstrap.servers": self.open_servers})

    @property
    def open_servers(self) -> str:
        """Where super users connect, without a password."""
        return self._broker.bootstrap_servers

    @property
    def sasl_servers(self) -> str:
        """Where passwords and tokens are asked for."""
        return f"{HOST}:{self._broker.doors[0]}"

    @property
    def mutual_servers(self) -> str:
        """Where certificates are asked for."""
        return f"{HOST}:{self._broker.doors[1]}"

    def password_properties(self, mechanism: str) -> dict[str, str]:
        """Return [kafka.properties] of the user, without the password."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.certificates.authority),
            "sasl.mechanism": mechanism,
            "sasl.username": self.user,
        }

    def certificate_properties(self) -> dict[str, str]:
        """Return [kafka.properties] of the user who has a certificate."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.certificates.authority),
            "ssl.certificate.location": str(self.certificates.client),
            "ssl.key.location": str(self.certificates.client),
        }

    def allow(self, *grants: tuple[ResourceType, str, ResourcePatternType, AclOperation]) -> None:
        """Let the user do things. They are allowed on return: the broker takes them over some time after its answer."""
        admin = self.admin()
        bindings = [self._binding(grant) for grant in grants]
        for answer in admin.create_acls(bindings).values():
            answer.result(10)
        kind, pattern = ResourceType.ANY, ResourcePatternType.ANY
        anything: Any = None  # documented, but not typed
        all_of_user = AclBindingFilter(
            kind, anything, pattern, f"User:{self.user}", anything, AclOperation.ANY, AclPermissionType.ANY
        )
        limit = time.monotonic() + ALLOWED_S_MAX
        while not set(bindings) <= set(admin.describe_acls(all_of_user).result(10)):
            assert time.monotonic() < limit, "the broker does not take over what was allowed"
            time.sleep(0.1)

    def forbid(self, grant: tuple[ResourceType, str, ResourcePatternType, AclOperation]) -> None:
        """Take back what was allowed."""
        admin = self.admin()
        kind, name, pattern, operation = grant
        wanted = AclBindingFilter(kind, name, pattern, f"User:{self.user}", "*", operation, AclPermissionType.ALLOW)
        (answer,) = admin.delete_acls([wanted]).values()
        assert answer.result(10), f"nothing to take back: {grant}"

    def _binding(self, grant: tuple[ResourceType, str, ResourcePatternType, AclOperation]) -> AclBinding:
        kind, name, pattern, operation = grant
        return AclBinding(kind, name, pattern, f"User:{self.user}", "*", operation, AclPermissionType.ALLOW)


class _Locked(LocalBroker):
    """A broker with two more listeners."""

    def __init__(self, certificates: Certificates, user: str) -> None:
        super().__init__(properties=QUICK_FAILOVER)
        self._certificates = certificates
        self._user = user
        self._doors = ReservedPorts(2)

    @property
    def doors(self) -> tuple[int, ...]:
        """The ports for SASL and for client certificates."""
        return self._doors.numbers

    def _write_properties(self, name: str, changes: Mapping[str, str]) -> Path:
        # With changes it is for a controller alone, which has no clients.
        return super()._write_properties(name, changes or {**self._listeners(), **self._security()})

    def _listeners(self) -> dict[str, str]:
        plain = f"PLAINTEXT://{self.bootstrap_servers}"
        passwords, mutual = self.doors
        return {
            "listeners": f"{plain},PASSWORDS://127.0.0.1:{passwords},MUTUAL://127.0.0.1:{mutual},"
            f"CONTROLLER://{self._controller}",
            "advertised.listeners": f"{plain},PASSWORDS://{HOST}:{passwords},MUTUAL://{HOST}:{mutual}",
            _PROTOCOLS: f"{PROPERTIES[_PROTOCOLS]},PASSWORDS:SASL_SSL,MUTUAL:SSL",
        }

    def _security(self) -> dict[str, str]:
        plain, sasl = f"{_JAAS}.plain.PlainLoginModule", "listener.name.passwords"
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._certificates.broker.as_posix(),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self._certificates.authority.as_posix(),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            f"{sasl}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
            f"{sasl}.plain.sasl.jaas.config": f'{plain} required user_{self._user}="{PASSWORD}";',
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
            # Takes tokens that nobody has signed: the mechanism is tested here, not an identity provider.
            f"{sasl}.oauthbearer.sasl.jaas.config": f"{_JAAS}.oauthbearer.OAuthBearerLoginModule required;",
        }
