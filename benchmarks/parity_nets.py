"""The nets of the parity benchmarks: torchvision's and timm's at small sizes, and a few of our own with tied and recurrent weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# name → input size; arguments after a comma. Sizes are small, because what is judged does not depend on them.
NETS: dict[str, str] = {
    "torchvision:resnet18": "1x3x64x64",
    "torchvision:resnet34": "1x3x64x64",
    "torchvision:resnet50": "1x3x64x64",
    "torchvision:resnext50_32x4d": "1x3x64x64",
    "torchvision:densenet121": "1x3x64x64",
    "torchvision:squeezenet1_1": "1x3x64x64",
    "torchvision:mobilenet_v2": "1x3x64x64",
    "torchvision:mobilenet_v3_small": "1x3x64x64",
    "torchvision:mobilenet_v3_large": "1x3x64x64",
    "torchvision:shufflenet_v2_x1_0": "1x3x64x64",
    "torchvision:mnasnet1_0": "1x3x64x64",
    "torchvision:efficientnet_b0": "1x3x64x64",
    "torchvision:regnet_y_400mf": "1x3x64x64",
    "torchvision:googlenet,aux_logits=False": "1x3x96x96",
    "torchvision:convnext_tiny": "1x3x64x64",
    "torchvision:swin_t": "1x3x64x64",
    "torchvision:lraspp_mobilenet_v3_large": "1x3x64x64",
    "timm:vit_tiny_patch16_224,img_size=64": "1x3x64x64",
    "timm:deit_tiny_patch16_224,img_size=64": "1x3x64x64",
    "timm:cait_xxs24_224,img_size=64": "1x3x64x64",
    "timm:mixer_s32_224,img_size=64": "1x3x64x64",
    "timm:resmlp_12_224,img_size=64": "1x3x64x64",
    "timm:convmixer_768_32": "1x3x64x64",
    "timm:poolformer_s12": "1x3x64x64",
    "timm:ghostnet_100": "1x3x64x64",
    "timm:resnetv2_50x1_bit": "1x3x64x64",
    "timm:dla34": "1x3x64x64",
    "timm:hrnet_w18_small": "1x3x64x64",
    "timm:repvgg_a0": "1x3x64x64",
    "timm:edgenext_xx_small": "1x3x64x64",
    "timm:mobilevit_xxs": "1x3x64x64",
    "timm:levit_128s": "1x3x224x224",
    "timm:lcnet_050": "1x3x64x64",
    "timm:pit_ti_224": "1x3x224x224",
    "timm:tf_efficientnet_lite0": "1x3x64x64",
    "timm:resnet26": "1x3x64x64",
    "timm:regnetx_002": "1x3x64x64",
    "timm:convnext_atto": "1x3x64x64",
    "timm:mobilenetv3_small_050": "1x3x64x64",
    "timm:seresnext26t_32x4d": "1x3x64x64",
    "timm:efficientformerv2_s0": "1x3x224x224",
    "timm:fastvit_t8": "1x3x64x64",
    "own:TiedLanguageModel": "1x12:int64:0..200",
    "own:SharedDepth": "1x10x32",
    "own:Recurrent": "1x12x16",
    "own:UNet": "1x3x32x32",
    "own:ResNet": "1x3x64x64",
}


def build(name: str, size: str, seed: int = 0) -> nn.Module:
    """The net with realistic weights. Raises what its library raises."""
    from benchmarks import realistic
    from convert.parity import inputs

    library, _, spelled = name.partition(":")
    arch, *pairs = spelled.split(",")
    arguments = {key: _value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    torch.manual_seed(seed)
    net: Any
    if library == "own":
        net = globals()[arch]()
    elif library == "torchvision":
        from benchmarks.torchvision_cpu import mend

        mend()
        import torchvision

        if arch == "lraspp_mobilenet_v3_large":
            arguments["weights_backbone"] = None
        if arch == "googlenet":
            arguments["init_weights"] = False
        net = torchvision.models.get_model(arch, weights=None, **arguments)
    else:
        from benchmarks.torchvision_cpu import mend

        mend()
        import timm

        net = timm.create_model(arch, pretrained=False, **arguments)
    return realistic.fill(net, [inputs.parse(size)], seed)


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    return int(text) if text.lstrip("-").isdigit() else text


class TiedLanguageModel(nn.Module):
    """A small transformer whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 200, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class SharedDepth(nn.Module):
    """One block used six times, as ALBERT does, through an alias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.last = nn.Linear(32, 32)
        self.last.weight = self.first.weight
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.norm(x + torch.nn.functional.gelu(self.last(torch.tanh(self.first(x)))))
        return x


class Recurrent(nn.Module):
    """A two-way LSTM with a linear head: gates saturate."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short = (
            nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if stride > 1 else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


class ResNet(nn.Module):
    """Eighteen layers, as torchvision's resnet18, for machines that have torch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        plan = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.blocks = nn.Sequential(*(Block(*sizes) for sizes in plan))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    """Encoder and decoder with a skip and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.mid = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.PReLU()
        )
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down(x)
        return self.out(torch.cat([a, self.up(self.mid(a))], 1))
