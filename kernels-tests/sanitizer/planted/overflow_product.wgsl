// A product beyond 2³² that a division brings back.
// dispatch: 2 | 128 128
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    let scaled = i * 0x4000000u; // sound: let scaled = i * 0x1000000u;
    y[i] = x[scaled / 0x4000000u]; // reports: overflow
}
