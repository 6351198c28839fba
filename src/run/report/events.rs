//! The steps of a run for TensorBoard: a file of `Event` messages in TFRecord frames.

use crc::{CRC_32_ISCSI, Crc};

use super::Step;

/// TensorBoard reads every file with `tfevents` in its name. The name is fixed, so a repeated run replaces its events.
pub(super) const FILE: &str = "events.out.tfevents.0.stssad";

/// CRC-32C, the checksum of TFRecord frames.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The beginning of a file.
pub(super) fn header(wall_time: f64) -> Vec<u8> {
    let mut file = Vec::new();
    let mut version = Vec::new();
    time(&mut version, wall_time);
    bytes(&mut version, 3, b"brain.Event:2");
    frame(&mut file, &version);
    file
}

/// One event per step, all with the time `wall_time`, in seconds since 1970.
pub(super) fn encode(steps: &[Step], wall_time: f64) -> Vec<u8> {
    let mut file = Vec::new();
    for Step { start, step, inner, outer, setting } in steps {
        let mut summary = Vec::new();
        let mut scalar = |name: &str, value: f32| {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, format!("start{start}/{name}").as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend(value.to_le_bytes());
            bytes(&mut summary, 1, &entry);
        };
        scalar("inner", *inner);
        outer.iter().for_each(|&outer| scalar("outer", outer));
        setting.iter().for_each(|(name, &value)| scalar(name, value as f32));
        let mut event = Vec::new();
        time(&mut event, wall_time);
        event.push(2 << 3);
        varint(&mut event, *step as u64);
        bytes(&mut event, 5, &summary);
        frame(&mut file, &event);
    }
    file
}

/// A TFRecord: length, its checksum, the message, its checksum.
fn frame(file: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_checksum(&length).to_le_bytes());
    file.extend(message);
    file.extend(masked_checksum(message).to_le_bytes());
}

/// TFRecord's masked checksum, for data that contain checksums themselves.
fn masked_checksum(data: &[u8]) -> u32 {
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Field 1, a double in protobuf: the time of an event.
fn time(message: &mut Vec<u8>, seconds: f64) {
    message.push(1 << 3 | 1);
    message.extend(seconds.to_le_bytes());
}

/// A field of bytes, a string or a message, in protobuf.
fn bytes(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, content.len() as u64);
    message.extend(content);
}

/// A varint in protobuf: seven bits per byte, lowest first; the eighth bit is set in all bytes but the last.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssad::augment::Setting;

    /// RFC 3720, B.4.
    #[test]
    fn checksums_agree_with_the_published_ones() {
        assert_eq!(CRC.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CRC.checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
    }

    /// CRC-32C bit by bit, independent of the writer's.
    fn checksum(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
        })
    }

    fn unmasked(word: &[u8]) -> u32 {
        u32::from_le_bytes(word.try_into().unwrap()).wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    /// The messages of a file, or what is wrong with it.
    fn messages(mut file: &[u8]) -> Result<Vec<&[u8]>, String> {
        let mut messages = Vec::new();
        while !file.is_empty() {
            let (head, rest) = file.split_at_checked(12).ok_or("half a head")?;
            if unmasked(&head[8..]) != checksum(&head[..8]) {
                return Err("length".into());
            }
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            let (message, rest) = rest.split_at_checked(length).ok_or("half a message")?;
            let (tail, rest) = rest.split_at_checked(4).ok_or("half a tail")?;
            if unmasked(tail) != checksum(message) {
                return Err("message".into());
            }
            messages.push(message);
            file = rest;
        }
        Ok(messages)
    }

    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Varint(u64),
        Double(f64),
        Float(f32),
        Bytes(&'a [u8]),
    }

    /// The fields of a message with their numbers.
    fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
        fn varint(message: &mut &[u8]) -> u64 {
            let end = message.iter().position(|byte| byte & 0x80 == 0).unwrap();
            let (number, rest) = message.split_at(end + 1);
            *message = rest;
            number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
        }
        fn take<'a>(message: &mut &'a [u8], count: usize) -> &'a [u8] {
            let (taken, rest) = message.split_at(count);
            *message = rest;
            taken
        }
        let mut fields = Vec::new();
        while !message.is_empty() {
            let tag = varint(&mut message);
            let field = match tag & 7 {
                0 => Field::Varint(varint(&mut message)),
                1 => Field::Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut message) as usize;
                    Field::Bytes(take(&mut message, length))
                }
                5 => Field::Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
                kind => panic!("wire type {kind}"),
            };
            fields.push((tag >> 3, field));
        }
        fields
    }

    fn steps() -> Vec<Step> {
        let setting = Setting::from([("angle_degrees".into(), 120.5), (format!("long{}", "g".repeat(200)), 0.25)]);
        vec![
            Step { start: 0, step: 1, inner: 0.5, outer: None, setting: setting.clone() },
            Step { start: 12, step: 300, inner: f32::NAN, outer: Some(0.125), setting },
        ]
    }

    #[test]
    fn events_are_read_back() {
        let file = [header(1.5e9), encode(&steps(), 1.5e9)].concat();
        let messages = messages(&file).unwrap();
        assert_eq!(messages.len(), 3);
        assert_eq!(fields(messages[0]), [(1, Field::Double(1.5e9)), (3, Field::Bytes(b"brain.Event:2"))]);

        let [(1, Field::Double(1.5e9)), (2, Field::Varint(300)), (5, Field::Bytes(summary))] = fields(messages[2])[..]
        else {
            panic!("{:?}", fields(messages[2]))
        };
        let mut scalars = Vec::new();
        for entry in fields(summary) {
            let (1, Field::Bytes(entry)) = entry else { panic!("{entry:?}") };
            let [(1, Field::Bytes(tag)), (2, Field::Float(value))] = fields(entry)[..] else { panic!("{entry:?}") };
            scalars.push((std::str::from_utf8(tag).unwrap().to_owned(), value.to_bits()));
        }
        let long = format!("start12/long{}", "g".repeat(200));
        let expected = [("inner", f32::NAN), ("outer", 0.125), ("angle_degrees", 120.5)]
            .map(|(name, value)| (format!("start12/{name}"), value.to_bits()));
        assert_eq!(scalars[..3], expected);
        assert_eq!(scalars[3..], [(long, 0.25f32.to_bits())]);
        let summary = fields(messages[1]).pop().unwrap().1;
        assert!(matches!(summary, Field::Bytes(summary) if fields(summary).len() == 3), "no outer in a warm-up step");
    }

    #[test]
    fn the_parser_sees_a_flipped_bit() {
        let good = [header(0.0), encode(&steps(), 0.0)].concat();
        assert!(messages(&good).is_ok());
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 4;
            assert!(messages(&bad).is_err(), "byte {byte}");
        }
    }
}
