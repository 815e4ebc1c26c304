"""Which precision trains a network fastest on this machine: a rule, so that a run that is repeated chooses the same."""

import pytorch_lightning as pl
import torch

from image_classifier.engine.training.dry_run import in_evaluation

# On a processor bf16 has to earn back what autocast costs: some work in every step, and a conversion of each weight.
# benchmarks/precision.py measures where that is.
LEAST_WORK = 60e6  # floating-point operations of a forward pass
WORK_PER_WEIGHT = 100


def fastest_precision(model: pl.LightningModule, batch_size: int, accelerator: str) -> str:
    """bf16 autocast where the hardware multiplies bf16 natively and a batch is work enough; else float32.

    Args:
        model: With an `example_input_array`; a compiled network counts as work enough.
        batch_size: Images a step.
        accelerator: Of Lightning's trainer, such as "auto" or "cpu".
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator not in ("auto", "cpu") or torch.backends.mps.is_available():
        return "32-true"
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return "32-true"
    work = forward_work(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    pays = work is None or work * batch_size > LEAST_WORK + WORK_PER_WEIGHT * weights
    return "bf16-mixed" if pays else "32-true"


def forward_work(model: pl.LightningModule) -> int | None:
    """Floating-point operations of convolutions and products of matrices for an image; None where it is not known."""
    from torch.utils.flop_counter import FlopCounterMode  # 0.1 s; not needed where the precision is given

    images = model.example_input_array
    if not isinstance(images, torch.Tensor) or any(getattr(m, "_compiled_call_impl", None) for m in model.modules()):
        return None
    with in_evaluation(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        getattr(model, "net", model)(images[:1])  # in evaluation the model may run its network twice
    return counter.get_total_flops()
