"""A ResNet-18 with random weights in PyTorch, a sixteenth as wide, and what its layers make of two images.

`python resnet18.py resnet18.safetensors`; needs torch, torchvision and safetensors. `python resnet18.py FILE --width 64` writes one of the
original width. The weights have torchvision's names; activations are computed in f64, with the batch norms'
running statistics.
"""
import argparse

import torch
import torchvision
from safetensors.torch import save_file

arguments = argparse.ArgumentParser()
arguments.add_argument("file")
arguments.add_argument("--width", type=int, default=4)
arguments = arguments.parse_args()

torch.manual_seed(18)
net = torchvision.models.resnet18(weights=None)
net.fc = torch.nn.Identity()
for layer in net.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        # As training leaves them: none is 0 or 1.
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
        torch.nn.init.normal_(layer.bias, 0, 0.2)
        torch.nn.init.normal_(layer.running_mean, 0, 0.2)
        torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    # The first channels of each layer are a narrower network.
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        narrow = [slice(extent * arguments.width // 64 if extent >= 64 else extent) for extent in tensor.shape]
        tensor.data = tensor.data[tuple(narrow)].clone()
weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}

mean, deviation = (torch.tensor(v).double().view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
images = torch.rand(2, 3, 40, 33)
net = net.double().eval()
with torch.no_grad():
    h = net.maxpool(net.relu(net.bn1(net.conv1((images.double() - mean) / deviation))))
    found = {"images": images, "out/stem": h}
    for stage, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
        for block, part in enumerate(layer):
            h = part(h)
            found[f"out/{stage}.{block}"] = h
    found["out/pool"] = net.avgpool(h).flatten(1)
save_file({**weights, **{name: tensor.contiguous() for name, tensor in found.items()}}, arguments.file)
