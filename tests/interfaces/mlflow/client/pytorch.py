"""A network of PyTorch: trained by Lightning under autolog, logged by hand, loaded by every form.

``pytorch.py autolog`` or ``pytorch.py log pt2|pickle``
"""

import json
import sys

import lightning
import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3
what, *more = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(7)
random = np.random.default_rng(7)
x = random.normal(size=(256, 6)).astype(np.float32)
y = (x[:, :1] - x[:, 1:2] > 0).astype(np.float32)
client = MlflowClient()


class Net(lightning.LightningModule):
    """Two layers and a sigmoid."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Sigmoid()
        )

    def forward(self, rows):
        """The probability of 1 for each row."""
        return self.layers(rows)

    def training_step(self, batch, _n):
        """The loss of a batch."""
        loss = torch.nn.functional.binary_cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def forms(run, model_id, name, version):
    """Every form of address."""
    return {
        "run": f"runs:/{run}/model",
        "logged": f"models:/{model_id}",
        "version": f"models:/{name}/{version}",
        "alias": f"models:/{name}@champion",
        "latest": f"models:/{name}/latest",
    }


def loaded(address):
    """What a model says that was loaded, natively and as a Python function."""
    found = mlflow.pytorch.load_model(address)
    with torch.no_grad():
        native = found(torch.from_numpy(x)).numpy()
    return native, np.asarray(mlflow.pyfunc.load_model(address).predict(x))


net = Net()
data = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=64)
mlflow.set_experiment("pytorch")
told = {}
if what == "autolog":
    mlflow.pytorch.autolog()
    with mlflow.start_run() as run:
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", enable_progress_bar=False, logger=False,
            enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(net, data)
    found = client.get_run(run.info.run_id)
    told = {
        "epochs": found.data.params["epochs"],
        "optimizer": found.data.params["optimizer_name"],
        "loss": [one.step for one in client.get_metric_history(run.info.run_id, "loss")],
        "artifacts": sorted(one.path for one in client.list_artifacts(run.info.run_id)),
    }
    (logged,) = mlflow.search_logged_models(
        experiment_ids=[found.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
        output_format="list",
    )
    model_id, uri = logged.model_id, logged.model_uri
else:
    (form,) = more
    with mlflow.start_run() as run:
        logged = mlflow.pytorch.log_model(
            net.layers, name="model", input_example=x[:2], serialization_format=form
        )
    found = client.get_run(run.info.run_id)
    model_id, uri = logged.model_id, logged.model_uri
name = f"network-{'-'.join(sys.argv[1:])}"
version = mlflow.register_model(uri, name).version
client.set_registered_model_alias(name, "champion", version)
net.eval()
with torch.no_grad():
    expected = net(torch.from_numpy(x)).numpy()
same = {
    form: all(np.allclose(one, expected, atol=1e-6) for one in loaded(address))
    for form, address in forms(run.info.run_id, model_id, name, version).items()
}
print(json.dumps({"status": found.info.status, "same": same, "version": int(version), **told}))
