// optimiser/adam: θ'[i] = θ[i] − rate · (m[i] / bias₁) / (√(v[i] / bias₂) + ε)
//
// An invocation updates one parameter.
const EPSILON: f32 = 1e-8;

@group(0) @binding(0) var<storage, read> theta: array<f32>;
@group(0) @binding(1) var<storage, read> m: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> rates: array<f32>;   // [rate, 1 − β₁ᵗ, 1 − β₂ᵗ]
@group(0) @binding(4) var<storage, read_write> updated: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if i < arrayLength(&updated) {
        updated[i] = theta[i] - rates[0] * (m[i] / rates[1]) / (sqrt(v[i] / rates[2]) + EPSILON);
    }
}
