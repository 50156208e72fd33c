//! XML as small trees, one part of a document at a time, so that a large file is never a tree as a whole.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::statement::{Place, StatementError};

/// Elements within each other.
const DEPTH_MAX: usize = 64;
/// Elements of one tree: an entry of a statement with a few hundred thousand payments.
const ELEMENTS_MAX: usize = 8_000_000;

/// An element without its namespace.
#[derive(Debug, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    /// The attribute `Ccy`, the only one that statements use.
    pub(crate) currency: Option<String>,
    /// The text directly within it.
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The elements at a path such as `NtryDtls/TxDtls`, in their order.
    pub(crate) fn all(&self, path: &str) -> Vec<&Element> {
        let mut found = vec![self];
        for name in path.split('/') {
            let below = found.into_iter().flat_map(|element| element.children.iter());
            found = below.filter(|child| child.name == name).collect();
        }
        found
    }

    /// The first element at a path.
    pub(crate) fn first(&self, path: &str) -> Option<&Element> {
        self.all(path).into_iter().next()
    }

    /// The text of the first element at a path; empty where there is none.
    pub(crate) fn text_at(&self, path: &str) -> &str {
        self.first(path).map_or("", |element| element.text.trim())
    }

    /// Every element below that has no elements itself.
    pub(crate) fn leaves(&self) -> Vec<&Element> {
        if self.children.is_empty() {
            return vec![self];
        }
        self.children.iter().flat_map(Element::leaves).collect()
    }
}

/// What comes next in a document.
#[derive(Debug)]
pub(crate) enum Step {
    /// An element begins.
    Begin(String),
    /// An element ends.
    End(String),
    /// The document ends.
    Over,
}

/// Walks through a document, and knows the line.
pub(crate) struct Walker<'text> {
    reader: Reader<&'text [u8]>,
    text: &'text str,
    /// Lines are counted up to here.
    counted: usize,
    line: u64,
    /// An element that begins and ends in one tag has still to end.
    ends: Option<String>,
    depth: usize,
    last_currency: Option<String>,
}

impl<'text> Walker<'text> {
    pub(crate) fn new(text: &'text str) -> Walker<'text> {
        let reader = Reader::from_str(text);
        Walker { reader, text, counted: 0, line: 1, ends: None, depth: 0, last_currency: None }
    }

    /// The line that was reached.
    pub(crate) fn line(&mut self) -> u64 {
        let reached = usize::try_from(self.reader.buffer_position()).map_or(self.counted, |reached| reached);
        let reached = reached.clamp(self.counted, self.text.len());
        let between = &self.text.as_bytes()[self.counted..reached];
        self.line += between.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = reached;
        self.line
    }

    fn wrong(&mut self, why: impl std::fmt::Display) -> StatementError {
        StatementError::new(Place { entry: 0, line: self.line() }, why)
    }

    /// The next beginning or end; text between goes into `text`.
    pub(crate) fn step(&mut self, text: &mut String) -> Result<Step, StatementError> {
        if let Some(name) = self.ends.take() {
            return Ok(self.end(name));
        }
        loop {
            match self.reader.read_event() {
                Ok(Event::Start(start)) => return self.begin(&start),
                Ok(Event::Empty(start)) => {
                    let begun = self.begin(&start)?;
                    self.ends = Some(name_of(start.local_name().as_ref()));
                    return Ok(begun);
                }
                Ok(Event::End(end)) => return Ok(self.end(name_of(end.local_name().as_ref()))),
                Ok(Event::Text(part)) => match part.xml10_content() {
                    Ok(part) => text.push_str(&part),
                    Err(error) => return Err(self.wrong(error)),
                },
                Ok(Event::CData(part)) => match part.xml10_content() {
                    Ok(part) => text.push_str(&part),
                    Err(error) => return Err(self.wrong(error)),
                },
                Ok(Event::GeneralRef(reference)) => match letter_of(&reference) {
                    Some(letters) => text.push_str(&letters),
                    None => {
                        let name = String::from_utf8_lossy(&reference).into_owned();
                        return Err(self.wrong(format!("&{name}; is unknown")));
                    }
                },
                Ok(Event::Eof) if self.depth > 0 => {
                    return Err(self.wrong("the document ends within an element: is the file cut off?"));
                }
                Ok(Event::Eof) => return Ok(Step::Over),
                Ok(Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Comment(_)) => {}
                Err(error) => return Err(self.wrong(format!("no XML: {error}"))),
            }
        }
    }

    fn begin(&mut self, start: &BytesStart) -> Result<Step, StatementError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(format!("more than {DEPTH_MAX} elements within each other")));
        }
        let currency = start.try_get_attribute("Ccy").ok().flatten();
        self.last_currency = currency.map(|attribute| String::from_utf8_lossy(&attribute.value).into_owned());
        Ok(Step::Begin(name_of(start.local_name().as_ref())))
    }

    fn end(&mut self, name: String) -> Step {
        self.depth = self.depth.saturating_sub(1);
        Step::End(name)
    }

    /// The whole element that has just begun.
    pub(crate) fn tree(&mut self, name: String) -> Result<Element, StatementError> {
        let root = Element { name, currency: self.last_currency.take(), ..Element::default() };
        let mut open = vec![root];
        let mut elements = 1;
        loop {
            let element = open.last_mut().expect("the root is taken out only when it ends");
            match self.step(&mut element.text)? {
                Step::Begin(name) => {
                    elements += 1;
                    if elements > ELEMENTS_MAX {
                        return Err(self.wrong(format!("one entry has more than {ELEMENTS_MAX} elements")));
                    }
                    let currency = self.last_currency.take();
                    open.push(Element { name, currency, ..Element::default() });
                }
                Step::End(_) => {
                    let ended = open.pop().expect("what ends was open");
                    match open.last_mut() {
                        Some(parent) => parent.children.push(ended),
                        None => return Ok(ended),
                    }
                }
                Step::Over => return Err(self.wrong("the document ends within an element")),
            }
        }
    }
}

fn name_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What `&amp;` or `&#252;` stands for. Entities that a document declares itself are never expanded.
fn letter_of(reference: &BytesRef) -> Option<String> {
    if let Ok(Some(letter)) = reference.resolve_char_ref() {
        return Some(letter.to_string());
    }
    let name = reference.decode().ok()?;
    resolve_xml_entity(&name).map(str::to_owned)
}
