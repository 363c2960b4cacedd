"""Makes lstm.json, next to this file or in the folder that is named: see README.md."""
import json
import sys

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, WIDTH, LAYERS = 11, 5, 2
ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7, 9, 3]]


def case(tied, seed):
    torch.manual_seed(seed)
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    lstm = nn.LSTM(WIDTH, WIDTH, num_layers=LAYERS, batch_first=True)
    head = embedding.weight if tied else nn.Parameter(torch.empty(VOCABULARY, WIDTH))
    parameters = {"embedding": embedding.weight, **dict(lstm.named_parameters())}
    if not tied:
        parameters["head"] = head
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(0, 0.7)

    rows, loss, count = [], 0.0, 0
    for tokens in ROWS:  # one at a time: nothing is padded
        ids = torch.tensor([tokens])
        hidden, (h, c) = lstm(embedding(ids))
        logits = F.linear(hidden, head)
        loss = loss + F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
        count += len(tokens) - 1
        rows.append({"tokens": tokens, "logits": logits[0].tolist(), "h": h[:, 0].tolist(), "c": c[:, 0].tolist()})
    loss = loss / count
    loss.backward()
    return {
        "tied": tied,
        "parameters": {name: parameter.tolist() for name, parameter in parameters.items()},
        "rows": rows,
        "loss": loss.item(),
        "gradient_norms": {name: parameter.grad.norm().item() for name, parameter in parameters.items()},
        "num_parameters": sum(parameter.numel() for parameter in parameters.values()),
    }


torch.set_num_threads(1)
folder = sys.argv[1] if len(sys.argv) > 1 else "."
with open(f"{folder}/lstm.json", "w") as file:
    json.dump({"torch": torch.__version__, "layers": LAYERS, "width": WIDTH, "vocabulary": VOCABULARY,
               "cases": [case(True, 1), case(False, 2)]}, file)
    file.write("\n")
