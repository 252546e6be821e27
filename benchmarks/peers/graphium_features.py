"""Graphium's featurisation of a file of SMILES, one a line. Run by benchmarks/build.py, in an environment that has `graphium`.

    python benchmarks/peers/graphium_features.py SMILES_FILE

Whenever a line comes on standard input it does one round and prints {case: seconds, ..., "failed": molecules} as a line of JSON.
Timed is what Graphium's datamodule calls for each molecule with `prepare_dict_or_graph: pyg:graph`, in one process, with the
features of `expts/neurips2023_configs/base_config/large.yaml` (arXiv 2310.04292; ultralarge.yaml, for PM6_83M, has the same).
"""

import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

FEATURES = {
    "atom_property_list_onehot": ["atomic-number", "group", "period", "total-valence"],
    "atom_property_list_float": ["degree", "formal-charge", "radical-electron", "aromatic", "in-ring"],
    "edge_property_list": ["bond-type-onehot", "stereo", "in-ring"],
    "add_self_loop": False,
    "explicit_H": False,
    "use_bonds_weights": False,
}
LAPLACIAN = {"pos_level": "node", "num_pos": 8, "normalization": "none", "disconnected_comp": True}
ENCODINGS = {
    "pos_types": {
        "lap_eigvec": {"pos_type": "laplacian_eigvec", **LAPLACIAN},
        "lap_eigval": {"pos_type": "laplacian_eigval", **LAPLACIAN},
        "rw_pos": {"pos_level": "node", "pos_type": "rw_return_probs", "ksteps": 16},
    }
}


def import_featurizer() -> Callable:
    """`mol_to_pyggraph`, without the models and trainers that `import graphium` also loads, and all that these need."""
    spec = importlib.util.find_spec("graphium")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("no package graphium in this environment")
    package = types.ModuleType("graphium")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["graphium"] = package
    from graphium.features.featurizer import mol_to_pyggraph

    return mol_to_pyggraph


def main() -> None:
    from rdkit import Chem, rdBase

    featurize = import_featurizer()
    smiles = Path(sys.argv[1]).read_text().splitlines()
    cases: dict[str, Callable[[str], object]] = {
        "parse": Chem.MolFromSmiles,
        "features": lambda s: featurize(s, **FEATURES, mask_nan=0.0),
        "encodings": lambda s: featurize(s, **FEATURES, pos_encoding_as_features=ENCODINGS, mask_nan=0.0),
    }
    for _ in sys.stdin:
        answer: dict[str, float] = {"failed": 0}
        with rdBase.BlockLogs():
            for name, work in cases.items():
                start = time.perf_counter()
                done = [work(s) for s in smiles]
                answer[name] = time.perf_counter() - start
                # it answers a failure with the text of the error
                answer["failed"] += sum(d is None or isinstance(d, str) for d in done)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
