//! The expression of a rule: one condition in CEL (<https://cel.dev>).
//!
//! The author of a rule is trusted with a yes or no and with nothing else. So only a part
//! of the language is taken, and what an evaluation may cost is known before it begins:
//!
//! - the source is short, its tree shallow, and only listed functions are called;
//! - the variables are `request`, `json` and `labels`; a name that is none of them is
//!   refused when the policy is read, not when a request comes;
//! - `all` and `exists` are the only loops. One does not stand in another, and inside only
//!   its own variable and `labels` are used, so that work grows no faster than the input.
//!
//! Whatever fails while it runs, a missing field or a wrong type, is unknown, and what is
//! unknown is denied. Its message is dropped, because it quotes values.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, IdedExpr, Value,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, operators},
    objects::{Key, Map},
    parser::PrattParser,
};
use thiserror::Error;

use super::facts::Facts;

/// Characters of an expression.
pub const EXPRESSION_LEN_MAX: usize = 1024;
/// Nodes of its tree, after the loops were expanded.
pub const EXPRESSION_NODES_MAX: usize = 256;
/// Levels of its tree. Parser and interpreter use the stack for each.
pub const EXPRESSION_DEPTH_MAX: usize = 24;
/// Sums that may make longer texts.
const ADDITIONS_MAX: usize = 4;
/// Nodes times bytes of the request and the body: what an evaluation may cost at most.
const WORK_MAX: usize = 64 << 20;
/// Below this depth the parser's own frames are small enough for any thread of ours.
const PARSER_DEPTH_MAX: u16 = 16;

/// Functions that take time in proportion to their arguments and make nothing longer.
const FUNCTIONS: [&str; 22] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
    "size",
    "contains",
    "startsWith",
    "endsWith",
];

/// Functions and variables of the language itself. It is made once: that takes longer
/// than an evaluation.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// An expression that was checked.
#[derive(Debug)]
pub(crate) struct Expression {
    tree: IdedExpr,
    shape: Shape,
}

/// What is known of an expression without running it.
#[derive(Debug, Default)]
struct Shape {
    nodes: usize,
    additions: usize,
    reads_request: bool,
    reads_json: bool,
    reads_labels: bool,
}

/// Why a text is not an expression, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpressionError {
    #[error("an expression has at most {EXPRESSION_LEN_MAX} characters; use several rules")]
    TooLong,
    #[error("the expression is not valid CEL: {message}")]
    Syntax { message: String },
    #[error("the expression has more than {EXPRESSION_NODES_MAX} parts; use several rules")]
    TooManyNodes,
    #[error("the expression is nested more than {EXPRESSION_DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("`{name}` is not a variable; there are `request`, `json` and `labels`")]
    Variable { name: String },
    #[error(
        "`{name}` cannot be called here; there are operators, `has`, `size`, `in`, `contains`, `startsWith`, `endsWith`, `all` and `exists`"
    )]
    Function { name: String },
    #[error("a loop must not stand in another loop")]
    NestedLoop,
    #[error("inside a loop only its own variable and `labels` can be used, not `{name}`")]
    LoopVariable { name: String },
    #[error("`all` and `exists` are the only loops")]
    Loop,
    #[error("`+` may stand {ADDITIONS_MAX} times in an expression, and not inside a loop")]
    Additions,
    #[error("messages, and optional or typed values, cannot be written in a rule")]
    Construct,
}

/// What an expression may look at.
#[derive(Debug)]
pub(crate) struct Variables<'a> {
    pub(crate) facts: &'a Facts<'a>,
    /// None when the request has no body: then `json` is an empty map.
    pub(crate) json: Option<&'a serde_json::Value>,
    pub(crate) body_len: usize,
}

impl Expression {
    /// Reads and checks an expression.
    pub(crate) fn compile(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > EXPRESSION_LEN_MAX {
            return Err(ExpressionError::TooLong);
        }
        let tree = PrattParser::new()
            .max_recursion_depth(PARSER_DEPTH_MAX)
            .error_recovery_limit(0)
            .error_reporting_limit(1)
            .max_expression_node_count(EXPRESSION_NODES_MAX)
            .parse(source)
            .map_err(|errors| syntax(&errors))?;
        let mut checker = Checker {
            shape: Shape::default(),
            loop_variable: None,
        };
        checker.check(&tree, EXPRESSION_DEPTH_MAX)?;
        Ok(Self {
            tree,
            shape: checker.shape,
        })
    }

    pub(crate) fn reads_body(&self) -> bool {
        self.shape.reads_json
    }

    pub(crate) fn reads_request(&self) -> bool {
        self.shape.reads_request
    }

    /// True, false, or none when it cannot be told.
    pub(crate) fn evaluate(&self, variables: &Variables<'_>) -> Option<bool> {
        let head = variables.facts.head;
        let header_bytes: usize = head
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let query_bytes = head.query.map_or(0, str::len);
        let bytes = variables.body_len + header_bytes + query_bytes + head.path.len();
        if self.shape.nodes.saturating_mul(bytes) > WORK_MAX {
            return None;
        }
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        if self.shape.reads_request {
            context.add_variable_from_value("request", request_value(variables)?);
        }
        if self.shape.reads_json {
            let json = variables.json.map_or_else(|| map([]), json_value);
            context.add_variable_from_value("json", json);
        }
        if self.shape.reads_labels {
            let labels = variables.facts.labels.iter();
            let labels = labels.map(|(name, value)| (name.clone(), text(value)));
            context.add_variable_from_value("labels", map(labels));
        }
        match Value::resolve(&self.tree, &context) {
            Ok(Value::Bool(result)) => Some(result),
            Ok(_) | Err(_) => None,
        }
    }
}

fn syntax(errors: &cel::ParseErrors) -> ExpressionError {
    let first = errors.errors.first();
    let message = first.map_or_else(String::new, |error| error.msg.clone());
    ExpressionError::Syntax {
        message: message.chars().take(200).collect(),
    }
}

struct Checker {
    shape: Shape,
    loop_variable: Option<String>,
}

impl Checker {
    fn check(&mut self, node: &IdedExpr, depth_left: usize) -> Result<(), ExpressionError> {
        let depth_left = depth_left.checked_sub(1).ok_or(ExpressionError::TooDeep)?;
        self.shape.nodes += 1;
        if self.shape.nodes > EXPRESSION_NODES_MAX {
            return Err(ExpressionError::TooManyNodes);
        }
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.check_variable(name),
            Expr::Select(select) => self.check(&select.operand, depth_left),
            Expr::Call(call) => self.check_call(call, depth_left),
            Expr::List(list) if list.optional_indices.is_empty() => {
                self.check_all(&list.elements, depth_left)
            }
            Expr::Map(entries) => {
                for entry in &entries.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) if !entry.optional => {
                            self.check(&entry.key, depth_left)?;
                            self.check(&entry.value, depth_left)?;
                        }
                        EntryExpr::MapEntry(_) | EntryExpr::StructField(_) => {
                            return Err(ExpressionError::Construct);
                        }
                    }
                }
                Ok(())
            }
            Expr::Comprehension(comprehension) => self.check_loop(comprehension, depth_left),
            Expr::Unspecified | Expr::Struct(_) | Expr::List(_) => Err(ExpressionError::Construct),
        }
    }

    fn check_all(&mut self, nodes: &[IdedExpr], depth_left: usize) -> Result<(), ExpressionError> {
        nodes
            .iter()
            .try_for_each(|node| self.check(node, depth_left))
    }

    fn check_variable(&mut self, name: &str) -> Result<(), ExpressionError> {
        if self.loop_variable.as_deref() == Some(name) {
            return Ok(());
        }
        let read = match name {
            "labels" => {
                self.shape.reads_labels = true;
                return Ok(());
            }
            "request" => &mut self.shape.reads_request,
            "json" => &mut self.shape.reads_json,
            name => {
                return Err(ExpressionError::Variable {
                    name: name.to_owned(),
                });
            }
        };
        if self.loop_variable.is_some() {
            return Err(ExpressionError::LoopVariable {
                name: name.to_owned(),
            });
        }
        *read = true;
        Ok(())
    }

    fn check_call(&mut self, call: &CallExpr, depth_left: usize) -> Result<(), ExpressionError> {
        if !FUNCTIONS.contains(&call.func_name.as_str()) {
            return Err(ExpressionError::Function {
                name: call.func_name.clone(),
            });
        }
        if call.func_name == operators::ADD {
            self.shape.additions += 1;
            if self.shape.additions > ADDITIONS_MAX || self.loop_variable.is_some() {
                return Err(ExpressionError::Additions);
            }
        }
        if let Some(target) = &call.target {
            self.check(target, depth_left)?;
        }
        self.check_all(&call.args, depth_left)
    }

    /// `all` and `exists` are recognised by what the parser makes of them: a step that joins
    /// the result so far with the condition, which is all that is the author's.
    fn check_loop(
        &mut self,
        comprehension: &ComprehensionExpr,
        depth_left: usize,
    ) -> Result<(), ExpressionError> {
        if self.loop_variable.is_some() {
            return Err(ExpressionError::NestedLoop);
        }
        self.check(&comprehension.iter_range, depth_left)?;
        let Expr::Call(step) = &comprehension.loop_step.expr else {
            return Err(ExpressionError::Loop);
        };
        let joins = [operators::LOGICAL_AND, operators::LOGICAL_OR];
        let is_result = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if *name == comprehension.accu_var);
        let (true, [so_far, condition]) = (
            joins.contains(&step.func_name.as_str()),
            step.args.as_slice(),
        ) else {
            return Err(ExpressionError::Loop);
        };
        if !is_result(so_far)
            || !is_result(&comprehension.result)
            || comprehension.iter_var2.is_some()
        {
            return Err(ExpressionError::Loop);
        }
        let name = comprehension.iter_var.as_str();
        if matches!(name, "request" | "json" | "labels") {
            return Err(ExpressionError::Variable {
                name: name.to_owned(),
            });
        }
        self.loop_variable = Some(name.to_owned());
        let checked = self.check(condition, depth_left);
        self.loop_variable = None;
        checked
    }
}

/// None when a header is not text, because then nothing can be said of the headers.
fn request_value(variables: &Variables<'_>) -> Option<Value> {
    let facts = variables.facts;
    let head = facts.head;
    let mut headers: HashMap<String, Vec<Value>> = HashMap::new();
    for (name, value) in head.headers {
        let value = std::str::from_utf8(value).ok()?.trim();
        let values = headers.entry(name.to_ascii_lowercase()).or_default();
        values.push(text(value));
    }
    let mut query: HashMap<String, Vec<Value>> = HashMap::new();
    for (key, value) in facts.query.as_ref()?.pairs() {
        query.entry(key.to_owned()).or_default().push(text(value));
    }
    let lists = |entries: HashMap<String, Vec<Value>>| {
        map(entries
            .into_iter()
            .map(|(name, values)| (name, Value::List(Arc::new(values)))))
    };
    let method = head.method.to_ascii_uppercase();
    let mut fields = vec![
        ("method".to_owned(), text(&method)),
        ("path".to_owned(), text(facts.path.as_str())),
        ("host".to_owned(), text(&head.host_text())),
        ("port".to_owned(), Value::Int(i64::from(head.port))),
        ("headers".to_owned(), lists(headers)),
        ("query".to_owned(), lists(query)),
    ];
    if let Ok(Some(media_type)) = &facts.media_type {
        fields.push(("content_type".to_owned(), text(&media_type.essence)));
    }
    if let Some(len) = facts.content_length.and_then(|len| i64::try_from(len).ok()) {
        fields.push(("body_bytes".to_owned(), Value::Int(len)));
    }
    Some(map(fields))
}

fn text(value: &str) -> Value {
    Value::String(Arc::new(value.to_owned()))
}

fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries = entries
        .into_iter()
        .map(|(name, value)| (Key::String(Arc::new(name)), value));
    Value::Map(Map {
        map: Arc::new(entries.collect()),
    })
}

/// The depth of a body is bounded by the parser that read it.
fn json_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => json_number(number),
        serde_json::Value::String(value) => text(value),
        serde_json::Value::Array(values) => {
            Value::List(Arc::new(values.iter().map(json_value).collect()))
        }
        serde_json::Value::Object(object) => map(object
            .iter()
            .map(|(name, value)| (name.clone(), json_value(value)))),
    }
}

fn json_number(number: &serde_json::Number) -> Value {
    if let Some(value) = number.as_i64() {
        Value::Int(value)
    } else if let Some(value) = number.as_u64() {
        Value::UInt(value)
    } else {
        number.as_f64().map_or(Value::Null, Value::Float)
    }
}

#[cfg(test)]
mod tests;
