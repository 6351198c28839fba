// A column index beyond its row: inside the flat buffer, outside the array.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    var rows: array<array<f32, 3>, 2>;
    rows[1][0] = x[i];
    let column = 3u; // sound: let column = lane % 3u;
    y[i] = rows[lane % 2u][column + lane - lane]; // reports: out-of-bounds
}
