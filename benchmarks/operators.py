"""How many operators a step of the paper's grid launches, counted on any machine.

    python benchmarks/operators.py [--only NAME]

In bfloat16, as on a GPU, where each operator is a kernel or a few: for small networks their number
bounds the speed. Writes benchmarks/results/operators.csv; prove.py counts kernels where there are.
"""

import argparse

from common import Table, add_out, cases
from prove import TASKS, Operators, a_run, steps_of

from st.core.device import choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="NAME", help="networks with this in the name")
    add_out(parser)
    options = parser.parse_args()
    csv = Table(options.out, "operators")
    where = choose("cpu", precision="bfloat16")
    for name, case in cases("cuda", options.only, 4).items():  # no number of images changes it
        for task, objective in TASKS.items():
            step = steps_of(a_run(case, objective, where, 16))
            step()
            with Operators() as operators:
                step()
            print(f"{name}, {task}: {operators.count}", flush=True)
            csv.add({"network": name, "task": task, "operators": operators.count})


if __name__ == "__main__":
    main()
