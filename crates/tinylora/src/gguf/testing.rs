//! Builds GGUF files in memory for tests, right or wrong ones. Checks nothing.

/// Parts of a file; `build` puts them together.
#[derive(Clone, Default)]
pub(crate) struct Builder {
    keys: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    /// Change of the offset of a tensor, by its number.
    pub(crate) shift: Option<(usize, i64)>,
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

impl Builder {
    /// A key with a type number and raw value bytes.
    pub(crate) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Builder {
        self.keys.push([&text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Builder {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Builder {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Builder {
        self.raw(key, 8, &text(value.as_bytes()))
    }

    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Builder {
        let mut bytes = [&8_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        for value in values {
            bytes.extend(text(value.as_bytes()));
        }
        self.raw(key, 9, &bytes)
    }

    /// An array of any type, its items as bytes.
    pub(crate) fn array(self, key: &str, kind: u32, count: u64, items: &[u8]) -> Builder {
        self.raw(key, 9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat())
    }

    /// A tensor: dimensions fastest first, type number, data.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Builder {
        self.tensors.push((name.to_owned(), dims.to_vec(), kind, data.to_vec()));
        self
    }

    /// A tensor of f32.
    pub(crate) fn tensor_f32(self, name: &str, dims: &[u64], data: &[f32]) -> Builder {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, dims, 0, &bytes)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        let mut data: Vec<u8> = Vec::new();
        for (number, (name, dims, kind, payload)) in self.tensors.iter().enumerate() {
            let mut offset = data.len() as i64;
            if let Some((at, by)) = self.shift
                && at == number
            {
                offset += by;
            }
            bytes.extend(text(name.as_bytes()));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            data.extend(payload);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        if !self.tensors.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes.extend(data);
        bytes
    }
}
