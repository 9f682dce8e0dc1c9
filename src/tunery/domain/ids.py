"""Object ids in OpenAI's forms. Random, so that two processes never need to agree on a counter."""

import secrets
import string

ALPHABET = string.ascii_letters + string.digits

PREFIXES = {
    "job": "ftjob-",
    "event": "ftevent-",
    "checkpoint": "ftckpt_",
    "permission": "cp_",
    "file": "file-",
    "upload": "upload_",
    "part": "part_",
    "organization": "org-",
    "project": "proj_",
    "user": "user-",
    "service_account": "svc_acct_",
    "key": "key_",
    "webhook": "whe_",
    "webhook_event": "evt_",
    "delivery": "whd_",
    "mail": "mail_",
    "request": "req_",
    "chat": "chatcmpl-",
    "completion": "cmpl-",
    "embedding": "embd-",
    "response": "resp_",
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "conversation": "conv_",
    "batch": "batch_",
    "batch_request": "batch_req_",
    "export": "export_",
    "import": "import_",
    "base": "base_",
    "eval": "eval_",
    "eval_run": "evalrun_",
    "output_item": "outputitem_",
    "audit": "audit_log-",
    "model": "model_",
}


def random_text(length: int) -> str:
    """Each as likely as any other. One draw for all of them: the system is asked once."""
    number, text = secrets.randbelow(len(ALPHABET) ** length), ""
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        text += ALPHABET[index]
    return text


def new_id(kind: str) -> str:
    """A fresh id such as `ftjob-` + 24 letters and digits. `kind` is a key of PREFIXES."""
    return PREFIXES[kind] + random_text(24)
