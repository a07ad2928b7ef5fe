"""Write trained networks as files for other programs, checked on the test images. A rule for each kind
of file, because kinds have other suffixes.

REQUIRED INPUTS: the prepared data set, the trained network
OUTPUTS: results/evaluate/.../{exported}/: network.onnx (.pt2; .py and .safetensors), the report of its
check, MODEL_CARD.md
"""

for target in GRID.targets():

    rule:
        name:
            f"deploy_{target}"
        input:
            unpack(inputs("deploy")),
            code=code("deploy"),
        output:
            **wiring.deployed(GRID, target)[1],
        log:
            "results/logs/deploy/{dataset}/{architecture}/seed{seed}/{exported}.log",
        wildcard_constraints:
            exported=one_of(wiring.deployed(GRID, target)[0]),
        cache: CACHE
        conda:
            "../envs/st.yaml"
        threads: 1
        resources:
            gpu=0,
            gres=None,
            mem_mb=memory("evaluate"),
            runtime=runtime("evaluate"),
        params:
            job=job("deploy"),
            contents=contents,
            plugins=plugins,
        message:
            "deploy {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.exported}"
        shell:
            "python -m st deploy --job {params.job:q} {params.plugins} --data {input.data:q}"
            " --model {input.model:q} --exported {output.exported:q} --about {output.about:q}"
            " --card {output.card:q} --log {log:q}"
