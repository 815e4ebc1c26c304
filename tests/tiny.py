"""Overrides of a run that takes about a second, and those that options need."""

TINY_DATA = ("data=synthetic", "data.num_samples=200", "data.image_size=8", "data.num_classes=4")
TINY_MODEL = ("model=mlp", "model.net.hidden_sizes=[16]")
TINY_WITH_DRAWINGS = (
    *TINY_DATA,
    *TINY_MODEL,
    "model.optimizer.lr=0.01",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar=null",
    "callbacks.model_summary=null",
)

# Drawings take longer than the run. Tests of the matrix choose theirs after these.
TINY = (
    *TINY_WITH_DRAWINGS,
    "callbacks.report=null",
    "callbacks.misclassified=null",
    "callbacks.calibration=null",
    "callbacks.sample_images=null",
    "confusion_matrix=none",
)

# An override that keeps a checkpoint of every epoch, epoch_<number from 0>.ckpt.
EVERY_EPOCH = (
    "+callbacks.every={_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: '${paths.run_dir}/checkpoints', "
    "filename: 'epoch_{epoch}', auto_insert_metric_name: false, save_top_k: -1, save_on_train_epoch_end: true}"
)
# What options of the group data cannot do without.
MANDATORY = {
    "image_folder": "data.root=pictures",
    "webdataset": "data.root=shards",
    "csv": "data.root=pictures.csv",
    "huggingface": "data.path=name",
    "torch_dataset": "data.train={_target_: my_package.MyDataset}",
}
