// An output that is added to before it was set.
// dispatch: 2 | 128 128
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    // sound: y[i] = 0.0;
    y[i] += x[i]; // reports: unwritten
}
