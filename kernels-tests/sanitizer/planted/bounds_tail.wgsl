// The last workgroup is longer than what is left of the buffers.
// dispatch: 2 | 100 100
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    if i < 128u { // sound: if i < arrayLength(&y) {
        y[i] = x[i]; // reports: out-of-bounds
    }
}
