"""The distillation losses, written from their papers' formulas in plain numpy."""

from math import exp, log

import numpy as np


def unit(vector):
    return vector / max(np.sqrt(np.sum(vector**2)), 1e-12)


def at(student, teacher, stages):
    total = 0
    for stage in stages:
        terms = []
        for ours, theirs in zip(student[stage], teacher[stage], strict=True):
            maps = [unit(np.sum(np.abs(a) ** 2, axis=0).ravel()) for a in (ours, theirs)]
            terms += list((maps[0] - maps[1]) ** 2)
        total += sum(terms) / len(terms)
    return total


def sp(student, teacher):
    def normalised(maps):
        rows = [[np.sum(a * b) for b in maps] for a in maps]
        return np.array([unit(np.array(row)) for row in rows])

    n = len(student["stage2"])
    difference = normalised(teacher["stage2"]) - normalised(student["stage2"])
    return np.linalg.norm(difference, "fro") ** 2 / n**2


def huber(x, y):
    return (x - y) ** 2 / 2 if abs(x - y) <= 1 else abs(x - y) - 0.5


def rkd(student, teacher):
    """The distances' and the angles' part."""
    n = len(student["features"])
    everyone = range(n)

    def distances(f):
        d = np.array([[np.sqrt(np.sum((f[i] - f[j]) ** 2)) for j in everyone] for i in everyone])
        return d / np.mean([d[i, j] for i in everyone for j in everyone if i != j])

    def angle(f, i, j, k):
        return np.dot(unit(f[i] - f[j]), unit(f[k] - f[j]))

    s, t = student["features"], teacher["features"]
    ds, dt = distances(s), distances(t)
    pairs = sum(huber(dt[i, j], ds[i, j]) for i in everyone for j in everyone if i != j)
    triples = sum(
        huber(angle(t, i, j, k), angle(s, i, j, k))
        for i in everyone
        for j in everyone
        for k in everyone
        if i != j and j != k and i != k
    )
    return pairs / n**2, triples / n**3


def pkt(student, teacher):
    def probabilities(f):
        kernel = np.array([[(np.dot(unit(a), unit(b)) + 1) / 2 for b in f] for a in f])
        return np.array([row / sum(row) for row in kernel])

    p, q = probabilities(teacher["features"]), probabilities(student["features"])
    n, pairs = len(p), zip(p.ravel(), q.ravel(), strict=True)
    return sum(a * log(a / b) for a, b in pairs) / n**2


def dkd(student, teacher, labels, temperature):
    """TCKD and NCKD, with their T^2."""

    def softmax(row):
        powers = [exp(x / temperature) for x in row]
        return [power / sum(powers) for power in powers]

    def divergence(p, q):
        return sum(a * log(a / b) for a, b in zip(p, q, strict=True))

    tckd, nckd = [], []
    for s, t, y in zip(student["logits"], teacher["logits"], labels.tolist(), strict=True):
        p, q = softmax(t), softmax(s)
        tckd.append(divergence([p[y], 1 - p[y]], [q[y], 1 - q[y]]))
        rest = [[x / (1 - each[y]) for i, x in enumerate(each) if i != y] for each in (p, q)]
        nckd.append(divergence(*rest))
    return temperature**2 * np.mean(tckd), temperature**2 * np.mean(nckd)


def fitnet(student, teacher, module, stage):
    weight, bias = (w.detach().numpy() for w in module.parameters())
    total = []
    for ours, theirs in zip(student[stage], teacher[stage], strict=True):
        for channel, (row, shift) in enumerate(zip(weight[:, :, 0, 0], bias, strict=True)):
            regressed = sum(row[i] * ours[i] for i in range(len(ours))) + shift
            total.append(np.mean((theirs[channel] - regressed) ** 2))
    return np.mean(total)
