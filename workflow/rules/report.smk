"""Report: the table, the figures and the comparison notebook.

REQUIRED INPUTS: metrics, histories and structures of the whole grid
OUTPUTS: results/table.csv, .md, .tex, results/runs.csv, results/figures/, results/comparison.ipynb
and .html; verdicts.json, what is decided, with all numbers behind it; metrics.json and curves.csv, the same numbers for `dvc metrics` and `dvc plots`;
environment.json, the versions and machines that made them
"""


rule report:
    input:
        **wiring.files(GRID, "report", Experiment()).inputs,
        # so that there is no table without the comparison that reads it
        comparison="results/comparison.html",
        code=code("report"),
    output:
        table=report("results/table.csv", caption="../report/table.rst", category="Comparison"),
        markdown="results/table.md",
        latex="results/table.tex",
        runs="results/runs.csv",
        metrics="results/metrics.json",
        curves="results/curves.csv",
        verdicts="results/verdicts.json",
        environment="results/environment.json",
        figures=report(
            directory("results/figures"),
            patterns=["{name}.png"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        "results/logs/report.log",
    conda:
        "../envs/st.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("report"),
        plugins=plugins,
    message:
        "report"
    shell:
        "python -m st report --job {params.job:q} {params.plugins} --folder results --log {log:q}"


rule notebook:
    input:
        **wiring.files(GRID, "report", Experiment()).inputs,
        notebook="workflow/notebooks/comparison.ipynb",
        code=code("report"),
        render="st/report/notebook.py",
    output:
        notebook="results/comparison.ipynb",
        html=report(
            "results/comparison.html", caption="../report/notebook.rst", category="Comparison"
        ),
    log:
        "results/logs/notebook.log",
    conda:
        "../envs/st.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("report"),
    message:
        "notebook"
    shell:
        "python -m st.report.notebook {input.notebook:q} {output.notebook:q} {output.html:q}"
        " {params.job:q} results > {log:q} 2>&1"
