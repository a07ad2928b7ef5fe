"""Search: score the supernet's channels and keep the structure of the best.

REQUIRED INPUTS: a trained supernet
OUTPUTS: results/search/.../{search}/structure.json
"""


rule search:
    input:
        supernet=search_supernet,
        code=search_code,
    output:
        structure=grid.STRUCTURE,
    log:
        "results/logs/search/{dataset}/{architecture}/seed{seed}/{search}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        job=job("search", "seed", "search"),
        plugins=PLUGINS,
    message:
        "search {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.search}"
    shell:
        "python -m st search --job {params.job:q} {params.plugins} --supernet {input.supernet:q}"
        " --structure {output.structure:q} --log {log:q}"
