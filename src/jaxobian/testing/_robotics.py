"""Scenarios: robotics and vision: rotations, arms, poses, cameras."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ._scenario import integers, normal, scenario, uniform

# --- Rotations ---------------------------------------------------------------------------------------------


def _hat(w: Array) -> Array:
    """The skew-symmetric matrix of a cross product."""
    zero = jnp.zeros_like(w[0])
    return jnp.array([[zero, -w[2], w[1]], [w[2], zero, -w[0]], [-w[1], w[0], zero]])


def _exp(w: Array) -> Array:
    """Rodrigues' formula."""
    angle = jnp.sqrt(w @ w + 1e-12)
    k = _hat(w / angle)
    return jnp.eye(3) + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * (k @ k)


def _log(rotation: Array) -> Array:
    """The rotation vector of a matrix, away from half turns."""
    angle = jnp.arccos(jnp.clip((jnp.trace(rotation) - 1) / 2, -0.999, 0.999))
    skew = (rotation - rotation.T) / (2 * jnp.sin(angle))
    return angle * jnp.array([skew[2, 1], skew[0, 2], skew[1, 0]])


@scenario("bench")
def so3_exp():
    """A rotation matrix by its rotation vector."""
    return _exp, (0.5 * normal(3),)


@scenario("bench")
def so3_log():
    """The rotation vector between two rotations, by both rotation vectors: six numbers to three."""
    return lambda w: _log(_exp(w[:3]).T @ _exp(w[3:])), (0.4 * normal(6),)


@scenario("bench")
def quaternion_rotations(quaternions: int = 16):
    """Points turned by 16 quaternions that are normalized first."""
    points = normal(quaternions, 3, seed=1)

    def rotated(q: Array, p: Array) -> Array:
        q = q / jnp.linalg.norm(q)
        t = 2 * jnp.cross(q[1:], p)
        return p + q[0] * t + jnp.cross(q[1:], t)

    return lambda q: jax.vmap(rotated)(q, points), (normal(quaternions, 4),)


# --- Arms --------------------------------------------------------------------------------------------------


def _joint(angle: Array, length: float, offset: float, twist: float) -> Array:
    """The transform along one link, by Denavit and Hartenberg's four parameters."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    ct, st = jnp.cos(twist), jnp.sin(twist)
    return jnp.array(
        [
            [c, -s * ct, s * st, length * c],
            [s, c * ct, -c * st, length * s],
            [0.0, st, ct, offset],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _arm(angles: Array) -> Array:
    """The pose of the hand of an arm."""
    pose = jnp.eye(4)
    for k in range(len(angles)):
        pose = pose @ _joint(angles[k], 0.3 + 0.05 * k, 0.1, (k % 3 - 1) * jnp.pi / 2)
    return pose


@scenario("bench")
def forward_kinematics():
    """The position of the hand of an arm by its six joint angles: the geometric Jacobian."""
    return lambda angles: _arm(angles)[:3, 3], (normal(6),)


@scenario("bench")
def arm_pose_residual():
    """Position and rotation that a hand is off its target, by seven joint angles: inverse kinematics."""
    target = _arm(normal(7) + 0.2)

    def f(angles: Array) -> Array:
        pose = _arm(angles)
        return jnp.concatenate([pose[:3, 3] - target[:3, 3], _log(target[:3, :3].T @ pose[:3, :3])])

    return f, (normal(7),)


@scenario("bench")
def manipulator_torques():
    """The torques of a two-link arm by angles, velocities and accelerations: six numbers to two."""

    def f(state: Array) -> Array:
        q, v, a = state[:2], state[2:4], state[4:]
        c, s = jnp.cos(q[1]), jnp.sin(q[1])
        mass = jnp.array([[2.0 + c, 0.5 + c / 2], [0.5 + c / 2, 0.5]])
        coriolis = 0.5 * s * jnp.array([-2 * v[0] * v[1] - v[1] ** 2, v[0] ** 2])
        gravity = 9.81 * jnp.array([1.5 * jnp.cos(q[0]) + 0.5 * jnp.cos(q[0] + q[1]), 0.5 * jnp.cos(q[0] + q[1])])
        return mass @ a + coriolis + gravity

    return f, (normal(6),)


@scenario("bench")
def manipulator_step():
    """The state of a two-link arm after a step under its mass matrix, which is solved: four numbers to four."""

    def f(state: Array) -> Array:
        q, v = state[:2], state[2:]
        c, s = jnp.cos(q[1]), jnp.sin(q[1])
        mass = jnp.array([[2.0 + c, 0.5 + c / 2], [0.5 + c / 2, 0.5]])
        force = -jnp.array([s * v[0] * v[1], s * v[0] ** 2]) - jnp.sin(q)
        v = v + 0.05 * jnp.linalg.solve(mass, force)
        return jnp.concatenate([q + 0.05 * v, v])

    return f, (normal(4),)


# --- Poses and cameras -------------------------------------------------------------------------------------


@scenario("bench")
def pose_graph(poses: int = 80):
    """Residuals of 80 planar poses, each measured from the one before, and one loop closed."""
    measured = 0.3 * normal(poses, 3, seed=1)

    def between(a: Array, b: Array) -> Array:
        c, s = jnp.cos(a[2]), jnp.sin(a[2])
        d = b - a
        return jnp.stack([c * d[0] + s * d[1], -s * d[0] + c * d[1], jnp.sin(d[2])])

    def f(poses: Array) -> Array:
        return jax.vmap(between)(poses, jnp.roll(poses, -1, 0)) - measured

    return f, (normal(poses, 3),)


def _seen(camera: Array, point: Array) -> Array:
    """Where a camera (rotation vector, position, focal length) sees a point."""
    p = _exp(camera[:3]) @ point + camera[3:6] + jnp.array([0.0, 0.0, 5.0])
    return camera[6] * p[:2] / p[2]


@scenario("bench", argnums=(0, 1))
def bundle_adjustment(cameras: int = 5, points: int = 20):
    """Where 5 cameras see 20 points, by the cameras and by the points."""
    seen = jax.vmap(jax.vmap(_seen, (None, 0)), (0, None))
    return seen, (0.3 * uniform(cameras, 7), normal(points, 3, seed=1))


@scenario("bench")
def registration(points: int = 400):
    """Distances of 400 points from the planes that they were measured on, by six numbers of a rigid motion."""
    measured, normals = normal(points, 3), normal(points, 3, seed=1)

    def f(motion: Array) -> Array:
        return jnp.sum(normals * (measured @ _exp(motion[:3]).T + motion[3:] - measured), axis=1)

    return f, (0.1 * normal(6),)


@scenario("bench", argnums=(0, 1))
def landmarks(poses: int = 60):
    """Ranges and bearings of landmarks in the plane, seen from 60 poses, by the poses and the landmarks."""
    pose, landmark = jnp.arange(4 * poses) // 4, integers(2 * poses, 4 * poses)

    def f(p: Array, m: Array) -> Array:
        apart = m[landmark] - p[pose, :2]
        bearing = jnp.arctan2(apart[:, 1], apart[:, 0]) - p[pose, 2]
        return jnp.stack([jnp.sqrt(jnp.sum(apart**2, 1) + 1e-3), jnp.sin(bearing)], axis=1)

    return f, (normal(poses, 3), 3 * normal(2 * poses, 2, seed=1))
