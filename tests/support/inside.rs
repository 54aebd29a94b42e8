//! Inside RabbitMQ: what an operator could do to a connection, a channel or a queue, and what only a defect would do.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Finds things by the names of queues. `Mailbox` and `Register` are channels of one node: those that read its mailbox
/// and the view register.
const TOOLS: &str = r#"
Name = fun(Q) -> element(4, amqqueue:get_name(Q)) end,
Starts = fun(Text, Prefix) ->
    Size = byte_size(Prefix),
    case Text of <<Prefix:Size/binary, _/binary>> -> true; _ -> false end
end,
Queues = fun(Prefix) -> [Q || Q <- rabbit_amqqueue:list(), Starts(Name(Q), Prefix)] end,
Readers = fun(Prefix) -> [element(1, C) || Q <- Queues(Prefix), C <- rabbit_amqqueue:consumers(Q)] end,
Get = fun(Channel, Key) ->
    case catch rabbit_channel:info(Channel, [Key]) of [{Key, Value}] -> Value; _ -> gone end
end,
Mailbox = fun(Cluster, Node) ->
    [Channel] = Readers(<<"chaley.", Cluster/binary, ".node.", Node/binary, ".">>),
    Channel
end,
Register = fun(Cluster, Node) ->
    Mail = Mailbox(Cluster, Node),
    Connection = Get(Mail, connection),
    Others = [Mail | Readers(<<"chaley.", Cluster/binary, ".requests.", Node/binary, ".">>)],
    [Channel] = [C || C <- rabbit_channel:list(), not lists:member(C, Others),
                      Get(C, connection) =:= Connection, Get(C, consumer_count) =:= 1],
    Channel
end,
"#;

/// Evaluates `expressions` with [`TOOLS`] at hand in the broker whose Erlang cookie is in `directory`.
pub fn evaluate(directory: &Path, amqp: u16, epmd: u16, bindings: &[(&str, &str)], expressions: &str) -> String {
    let mut program = TOOLS.to_string();
    for (name, value) in bindings {
        program.push_str(&format!("{name} = <<{value:?}>>,\n"));
    }
    program.push_str(expressions);
    program.push('\n');
    let mut call = Command::new("erl_call");
    // The cookie is read from the home directory, not from the arguments.
    // -r: under one name a second call that runs at the same time would not be let in.
    call.args(["-r", "-sname", &format!("chaley-test-{amqp}@localhost"), "-e"])
        .env("HOME", directory)
        .env("ERL_EPMD_PORT", epmd.to_string());
    call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = call
        .spawn()
        .expect("erl_call starts; it is part of Debian's erlang-base");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(program.as_bytes()).expect("erl_call reads");
    drop(input);
    let output = child.wait_with_output().expect("erl_call ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.starts_with("{ok,"),
        "RabbitMQ refused this:\n{expressions}\n{said}\n{errors}"
    );
    said
}
