"""Quantisers: one small Llama with random weights, quantised by one library after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Weights that share a scale.
GROUP = 32


def base() -> nn.Module:
    import transformers as t

    torch.manual_seed(0)
    sizes = dict(vocab_size=101, hidden_size=64, intermediate_size=128, num_hidden_layers=1)
    config = t.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    return t.LlamaForCausalLM(config).eval()


def with_layers(make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The model with another layer in place of each linear one but the last."""
    model = base()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(module, name, make(child))
    return model.eval()


def _groups(layer: nn.Linear) -> Tensor:
    """(out, groups, `GROUP`)."""
    return layer.weight.detach().unflatten(1, (-1, GROUP))


# ------------------------------------------------------------------------------------------------ torchao, quanto, hqq
def torchao(config: str, kind: torch.dtype = torch.float32, **options: object) -> nn.Module:
    import torchao.quantization as ao  # type: ignore[import-not-found]

    model = base().to(kind)
    ao.quantize_(model, getattr(ao, config)(**options))
    return model


def quanto(kind: str) -> nn.Module:
    from optimum import quanto as q  # type: ignore[import-not-found]

    model = base()
    q.quantize(model, weights=getattr(q, kind))
    q.freeze(model)
    return model.eval()


def hqq() -> nn.Module:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear  # type: ignore[import-not-found]

    config = BaseQuantizeConfig(nbits=4, group_size=64)
    return with_layers(lambda layer: HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu"))


def bitsandbytes(bits: int) -> nn.Module:
    import bitsandbytes as b  # type: ignore[import-not-found]

    def make(layer: nn.Linear) -> nn.Module:
        sizes = (layer.in_features, layer.out_features)
        if bits == 8:
            made = b.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0)
            made.weight = b.nn.Int8Params(layer.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
        else:
            made = b.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.float32)
            made.weight = b.nn.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
        return made  # type: ignore[no-any-return]

    return with_layers(make).to("cpu")


def torch_ao() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(base(), {nn.Linear}, dtype=torch.qint8).eval()  # type: ignore[no-any-return, no-untyped-call]


# ------------------------------------------------------------------------------------------------ GPTQ, AWQ
def gptq(bits: int) -> nn.Module:
    """Rounded to the nearest, where GPTQ would look for better codes: what is held and computed is the same."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # type: ignore[import-not-found]

    def make(layer: nn.Linear) -> nn.Module:
        sizes = dict(in_features=layer.in_features, out_features=layer.out_features)
        made = TorchLinear(bits=bits, group_size=GROUP, sym=True, desc_act=False, **sizes)
        scale = (_groups(layer).abs().amax(-1) * 2 / (2**bits - 1)).clamp_min(1e-6)
        order = torch.arange(layer.in_features, dtype=torch.int32) // GROUP
        made.pack(layer, scale, torch.full_like(scale, 2 ** (bits - 1)), order)
        made.post_init()
        return made.eval()  # type: ignore[no-any-return]

    return with_layers(make)


def awq() -> nn.Module:
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear  # type: ignore[import-not-found]

    def make(layer: nn.Linear) -> nn.Module:
        sizes = dict(in_features=layer.in_features, out_features=layer.out_features)
        made = AwqTorchLinear(bits=4, group_size=GROUP, sym=False, desc_act=False, **sizes)
        low, high = _groups(layer).aminmax(dim=-1)
        scale = ((high - low) / 15).clamp_min(1e-6)
        made.pack(layer, scale, (-low / scale).round().clamp(0, 15))
        made.post_init()
        return made.eval()  # type: ignore[no-any-return]

    return with_layers(make)


# ------------------------------------------------------------------------------------------------ compressed-tensors
def compressed_tensors(form: str, bits: int, kind: str = "int") -> nn.Module:
    """As transformers loads it: compressed, and written out by the first forward pass."""
    from compressed_tensors import quantization as q  # type: ignore[import-not-found]
    from compressed_tensors.compressors import ModelCompressor  # type: ignore[import-not-found]
    from compressed_tensors.quantization.utils import calculate_qparams  # type: ignore[import-not-found]

    model = base()
    weights = q.QuantizationArgs(num_bits=bits, type=kind, strategy="channel", symmetric=True)
    scheme = q.QuantizationScheme(targets=["Linear"], weights=weights, format=form)
    config = q.QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"], format=form)
    q.apply_quantization_config(model, config)
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            scale, _ = calculate_qparams(*layer.weight.data.aminmax(dim=1, keepdim=True), weights)  # type: ignore[union-attr, operator, arg-type]
            layer.weight_scale.data.copy_(scale)  # type: ignore[union-attr, operator]
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    return model.eval()


# ------------------------------------------------------------------------------------------------ transformers' own
def bitnet(kind: str) -> nn.Module:
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

    def make(layer: nn.Linear) -> nn.Module:
        sizes = (layer.in_features, layer.out_features)
        scale = layer.weight.data.abs().mean()
        ternary = (layer.weight.data / scale).round().clamp(-1, 1)
        if kind == "packed":
            made = BitLinear(*sizes, bias=False, dtype=torch.float32)
            made.weight.copy_(pack_weights(ternary))
            made.weight_scale.fill_(float(1 / scale))
            return made
        held = AutoBitLinear(*sizes, bias=False, dtype=torch.float32, online_quant=kind == "online")
        held.weight.data = layer.weight.data.clone() if kind == "online" else ternary
        if kind == "offline":
            held.weight_scale.fill_(float(scale))
        return held

    return with_layers(make)


def fine_grained_float8() -> nn.Module:
    from transformers.integrations.finegrained_fp8 import FP8Linear

    def make(layer: nn.Linear) -> nn.Module:
        made = FP8Linear(layer.in_features, layer.out_features)
        made.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
        return made

    return with_layers(make)


_BRAIN = torch.bfloat16
#: (distribution, what is held, the model)
QUANTISERS: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("torchao", "int8", lambda: torchao("Int8WeightOnlyConfig")),
    ("torchao", "int8, inputs too", lambda: torchao("Int8DynamicActivationInt8WeightConfig")),
    ("torchao", "int4, packed", lambda: torchao("Int4WeightOnlyConfig", _BRAIN, group_size=GROUP)),
    ("torchao", "intx: 4 bit", lambda: torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4)),
    ("torchao", "intx: 2 bit", lambda: torchao("IntxWeightOnlyConfig", weight_dtype=torch.int2)),
    ("torchao", "intx: 8 bit, inputs too", lambda: torchao("Int8DynamicActivationIntxWeightConfig")),
    ("torchao", "float8", lambda: torchao("Float8WeightOnlyConfig")),
    ("torchao", "float8, inputs too", lambda: torchao("Float8DynamicActivationFloat8WeightConfig")),
    ("optimum-quanto", "int2", lambda: quanto("qint2")),
    ("optimum-quanto", "int4", lambda: quanto("qint4")),
    ("optimum-quanto", "int8", lambda: quanto("qint8")),
    ("optimum-quanto", "float8", lambda: quanto("qfloat8")),
    ("hqq", "int4, groups of 64", hqq),
    ("bitsandbytes", "8 bit, inputs too", lambda: bitsandbytes(8)),
    ("bitsandbytes", "4 bit (nf4)", lambda: bitsandbytes(4)),
    ("gptqmodel", "GPTQ: 4 bit", lambda: gptq(4)),
    ("gptqmodel", "GPTQ: 3 bit", lambda: gptq(3)),
    ("gptqmodel", "AWQ: 4 bit, in float16", awq),
    ("compressed-tensors", "int4, packed", lambda: compressed_tensors("pack-quantized", 4)),
    ("compressed-tensors", "int8", lambda: compressed_tensors("int-quantized", 8)),
    ("compressed-tensors", "float8", lambda: compressed_tensors("float-quantized", 8, "float")),
    ("transformers", "BitNet: ternary, packed, inputs too", lambda: bitnet("packed")),
    ("transformers", "BitNet: ternary, inputs too", lambda: bitnet("offline")),
    ("transformers", "BitNet: made ternary in each call, inputs too", lambda: bitnet("online")),
    ("transformers", "float8, fine-grained, inputs too", fine_grained_float8),
    ("torch", "torch.ao: int8, inputs too", torch_ao),
)
