// A divisor that is zero in every other invocation.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    let parts = lane % 2u; // sound: let parts = lane % 2u + 1u;
    y[i] = x[lane / parts]; // reports: division-by-zero
}
