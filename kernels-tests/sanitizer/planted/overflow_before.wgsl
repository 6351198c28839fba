// The element before the first one wraps round, and the remainder hides it.
// dispatch: 2 | 128 128
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    let before = (i - 1u) % 100u; // sound: let before = (i - 1u + 100u) % 100u;
    y[i] = x[before]; // reports: overflow
}
