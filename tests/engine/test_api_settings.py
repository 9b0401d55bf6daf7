"""Settings of the service, and what it does where nobody is asked who they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_doubles import Service

from pybak.api.settings import ApiSettings, from_environment
from pybak.errors import PlanError


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


class TestSettings:
    def test_they_come_from_the_environment(self) -> None:
        made = from_environment(
            {
                "PYBAK_API_PORT": "9000",
                "PYBAK_API_ISSUER": "https://login.example",
                "PYBAK_API_SOURCE_ROOTS": "/srv/a, /srv/b",
                "PYBAK_API_DESTINATION_ROOTS": "/with, comma\ns3://bucket/x\n",
                "PYBAK_API_SCOPE_NAMES": '{"Backup.Read": "backup:read"}',
                "PYBAK_API_TOKEN_ENDPOINT": "true",
                "PYBAK_API_AUDIENCE": "",
                "PYBAK_HOME": "/elsewhere",
            }
        )
        assert made.port == 9000
        assert made.source_roots == ("/srv/a", "/srv/b")
        assert made.destination_roots == ("/with, comma", "s3://bucket/x")
        assert made.scope_names == {"Backup.Read": "backup:read"}
        assert made.token_endpoint
        assert made.audience == "pybak"

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("PORT", "x1y", "PYBAK_API_PORT: "),
            ("PORTS", "1", "PYBAK_API_PORTS: there is no such setting"),
            ("ISSUER", "http://login.example", "PYBAK_API_ISSUER: must begin with https"),
            ("ALGORITHMS", "HS256", "PYBAK_API_ALGORITHMS: HS256 is none of"),
            ("ALGORITHMS", "none", "PYBAK_API_ALGORITHMS: none is none of"),
            ("SCOPE_NAMES", '{"a": "all"}', "PYBAK_API_SCOPE_NAMES: all is none of"),
            ("SCOPE_NAMES", "a=b", "PYBAK_API_SCOPE_NAMES: is no JSON"),
            ("TLS_KEY", "/x", "PYBAK_API_TLS_CERTIFICATE: goes with"),
        ],
    )
    def test_wrong_ones_are_named(self, name: str, value: str, words: str) -> None:
        with pytest.raises(PlanError) as raised:
            from_environment({f"PYBAK_API_{name}": value})
        assert str(raised.value).startswith(words)
        assert "x1y" not in str(raised.value)

    def test_nobody_is_let_in_by_mistake(self) -> None:
        with pytest.raises(PlanError, match="no authentication is set up"):
            ApiSettings().check_startable()
        with pytest.raises(PlanError, match="only goes with a host of this machine"):
            from_environment({"PYBAK_API_NO_AUTHENTICATION": "1", "PYBAK_API_HOST": "0.0.0.0"})
        with pytest.raises(PlanError, match="contradicts"):
            from_environment(
                {"PYBAK_API_NO_AUTHENTICATION": "1", "PYBAK_API_ISSUER": "https://login.example"}
            )
        ApiSettings(no_authentication=True).check_startable()


class TestWithoutAuthentication:
    """A switch for one's own machine: a page in a browser there must not get through."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Service:
        return Service(tmp_path, issuer=None, no_authentication=True)

    def test_programs_on_this_machine_are_answered(self, service: Service) -> None:
        assert service.get("/logs", token=None).status_code == 200
        assert service.post("/compress", token=None, json={"job": "x"}).status_code == 202

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": ""},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:9999"},
        ],
    )
    def test_what_a_page_has_a_browser_send_is_not(
        self, service: Service, headers: dict[str, str]
    ) -> None:
        assert service.get("/logs", token=None, headers=headers).status_code == 401

    def test_a_form_of_a_page_starts_nothing(self, service: Service) -> None:
        """Without a preflight a page can send text/plain only."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            headers = {"Content-Type": kind} if kind else {}
            answer = service.post("/compress", token=None, content=b'{"job": "x"}', headers=headers)
            assert answer.status_code == 422, answer.text
        assert service.runs.made == []
