// Workgroups that write the same elements.
// dispatch: 2 | 128 128
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = lane; // sound: let i = workgroup.x * 64u + lane;
    y[i] = x[i]; // reports: race
}
