"""Scenarios: the same jobs at the sizes that take milliseconds. Every job that has a size is here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from . import _finance, _learning, _matrices, _numerics, _odes, _physics, _robotics
from ._scenario import Scenario


def _larger(job: Scenario, **sizes: int) -> Scenario:
    """A job with other sizes than its usual ones, which stand in its name."""
    name = "_".join([job.name, *map(str, sizes.values())])
    doc = f"{job.name}, with {', '.join(f'{size:,} {what}' for what, size in sizes.items())}."
    return replace(job, name=name, make=partial(job.make, **sizes), tags=job.tags | {"large"}, doc=doc)


LARGER = [
    _larger(_robotics.quaternion_rotations, quaternions=500),
    _larger(_robotics.pose_graph, poses=500),
    _larger(_robotics.bundle_adjustment, cameras=10, points=60),
    _larger(_robotics.registration, points=5000),
    _larger(_robotics.landmarks, poses=300),
    _larger(_numerics.kinematic_chain, links=300),
    _larger(_numerics.brusselator, side=32),
    _larger(_odes.rk4_parameters, steps=2000),
    _larger(_odes.neural_ode, width=100),
    _larger(_odes.heat_steps, cells=1000),
    _larger(_odes.optimal_control, nodes=300),
    _larger(_odes.trajectories, number=500),
    _larger(_odes.reactor, cells=500),
    _larger(_odes.multiple_shooting, pieces=500),
    _larger(_odes.collocation, nodes=500),
    _larger(_odes.reaction_network, species=200, reactions=600),
    _larger(_odes.reaction_temperatures, temperatures=500),
    _larger(_physics.lennard_jones_32, particles=128),
    _larger(_physics.gravity, bodies=100),
    _larger(_physics.energy_gradient, charges=400),
    _larger(_physics.neighbor_list, particles=500),
    _larger(_physics.springs, masses=600),
    _larger(_physics.bond_angles, atoms=500),
    _larger(_physics.oscillators, number=1500),
    _larger(_physics.power_flow, buses=600),
    _larger(_physics.spectral_burgers, points=512),
    _larger(_physics.poisson, side=32),
    _larger(_physics.complex_recurrence, steps=256),
    _larger(_physics.quantum_circuit, layers=40),
    _larger(_physics.kalman_filter, steps=300),
    _larger(_learning.logistic_loss, points=20_000, features=100),
    _larger(_learning.network_loss, points=10_000),
    _larger(_learning.pinn_residuals, points=300),
    _larger(_learning.network_residuals, points=1000),
    _larger(_learning.curve_fit, times=4000),
    _larger(_learning.embedding_table, vocabulary=5000, length=256),
    _larger(_learning.deep_sets, elements=1000),
    _larger(_learning.classifier_parameters, examples=500),
    _larger(_learning.normalized_rows, rows=150),
    _larger(_learning.softmax_rows, rows=200),
    _larger(_learning.rms_norm, rows=120),
    _larger(_matrices.inverse, order=30),
    _larger(_matrices.cholesky_factor, order=30),
    _larger(_matrices.cholesky_solve, order=60),
    _larger(_matrices.log_determinant, order=60),
    _larger(_matrices.sparse_product_by_vector, rows=800, columns=1000),
    _larger(_finance.option_book, options=3000),
    _larger(_finance.book_value, options=5000),
    _larger(_finance.book_by_spot_and_volatility, options=1000),
    _larger(_finance.monte_carlo, paths=20_000),
    _larger(_finance.curve_bootstrap, years=400),
    _larger(_finance.implied_volatility, prices=1000),
    _larger(_finance.portfolio_risk, assets=400),
    _larger(_finance.swap_book, swaps=3000),
]
