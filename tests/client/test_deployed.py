"""The app that a stock SuperNode loads: a plain name, and the device its configuration names."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

import client.deployed
from client.joining import join
from common.errors import EnrolmentError, SettingError


def context(**node_config: Any) -> Context:
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config={})


def test_the_app_is_assigned_where_flower_looks_for_it() -> None:
    assert isinstance(client.deployed.app, ClientApp)
    tree = ast.parse(inspect.getsource(client.deployed))
    assert any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "app" for node in tree.body)


def test_a_node_names_its_membership(operator: Any, tmp_path: Path) -> None:
    made = join(operator.invite(), root=tmp_path / "federations")
    device = client.deployed.device_of(context(membership=str(made.folder)))
    assert device.certificate == made.certificate
    assert client.deployed.device_of(context(membership=str(made.folder))) is device
    device.ledger.close()


@pytest.mark.parametrize("config", [{}, {"membership": ""}, {"membership": 3}])
def test_a_node_without_one_is_told_how(config: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="--node-config"):
        client.deployed.device_of(context(**config))


def test_a_folder_without_a_membership_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="there is no membership"):
        client.deployed.device_of(context(membership=str(tmp_path)))
