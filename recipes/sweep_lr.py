"""Fits a line to points by gradient descent, and reports its loss after every step. Nothing here knows of sweeps."""

import argparse
import random
import time

from orchestrator.worker import report

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

random.seed(options.seed)
points = [(x / 10, 3 * x / 10 + 1 + random.gauss(0, 0.1)) for x in range(-10, 11)]
slope = offset = 0.0
for step in range(1, options.steps + 1):
    errors = [(slope * x + offset - y, x) for x, y in points]
    slope -= options.lr * 2 * sum(error * x for error, x in errors) / len(points)
    offset -= options.lr * 2 * sum(error for error, _ in errors) / len(points)
    report(step=step, loss=sum(error * error for error, _ in errors) / len(points))
    time.sleep(0.02)  # a step of real training takes longer
