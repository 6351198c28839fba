// A remainder by zero, which here happens to index within bounds.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    let period = lane / 32u; // sound: let period = lane / 32u + 1u;
    y[i] = x[lane % period]; // reports: division-by-zero
}
