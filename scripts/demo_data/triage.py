"""Classification: a support message becomes one of five labels, and nothing else."""

import re
from collections.abc import Sequence

from demo_data.task import Example, Task

LABELS = ("billing", "shipping", "account", "bug", "feature")
INSTRUCTION = (
    "Classify this support message as billing, shipping, account, bug or feature.\nMessage: {}"
)

TRAIN = {
    "billing": """
        I was charged twice for the same month.
        My invoice shows the wrong amount.
        Can I get a refund for last week's payment?
        Why did the price on my receipt go up?
        Please send me a copy of the invoice for March.
        The discount code was not applied to my bill.
        You took 40 euros from my card without asking.
        I still see a charge although I stopped my plan.
        My payment failed but the money left my bank.
        How do I change the credit card you charge?
        The tax on this invoice looks wrong.
        I want my money back.
        Our company needs a VAT number on the receipt.
        There is a fee on my statement that I do not recognise.
        When will the refund reach my bank?
        I paid by transfer but the invoice is still open.
        Is the yearly plan cheaper than paying monthly?
        My card expired, where do I enter the new one?
        You billed me for ten seats and we have only six.
        The free trial ended and I was charged at once.
        Do you accept PayPal or only cards?
        I got a reminder for a bill I already paid.
        Please stop charging me 9.99 every month.
        The coupon gave me five percent and not fifteen.
        Our accountant asks for all receipts of last year.
        I see two subscriptions on my credit card bill.
        Could we pay this quarter's invoice in two parts?
        The amount in the email differs from the amount on my card.
        """,
    "shipping": """
        My parcel has not arrived yet.
        Where is my order? It was due on Monday.
        The tracking number does not show any news.
        The box came with a big hole in it.
        I received the wrong item in my package.
        Can you deliver to a different street?
        The courier left the package at my neighbour's house.
        How long does delivery to Norway take?
        One of the three items is missing from the box.
        My order still says preparing after six days.
        Do you ship to islands?
        The driver said nobody was home, but I was.
        I need the delivery before Friday, is that possible?
        The vase was broken when I opened the parcel.
        Tracking says delivered but there is nothing here.
        I ordered blue shoes and got green ones.
        Please send the replacement to my office.
        What does express delivery cost to Spain?
        The package has been stuck in customs for two weeks.
        How do I send the lamp back to your warehouse?
        My order was split, when does the second box come?
        The courier wants a code for the parcel, which one?
        Can I pick up the order myself at your depot?
        I moved, so please redirect my parcel.
        The chairs were dispatched a month ago and never came.
        There were two left gloves in the package.
        Which carrier will bring my order?
        The post office sent my parcel back to you.
        """,
    "account": """
        I forgot my password.
        I cannot log in since this morning.
        How do I change the email address of my profile?
        My account was locked after three tries.
        Please delete my account and all my data.
        The login code never arrives on my phone.
        I want to change my user name.
        Someone else signed in to my profile.
        How can I turn on two-factor authentication?
        The link to reset my password has expired.
        I have two profiles, can you merge them?
        It says my user name does not exist.
        I lost the phone that gets my sign-in codes.
        Can my colleague have her own login?
        I registered with the wrong email address.
        How do I sign out on all my devices?
        My old email is gone, so I cannot confirm my login.
        Please close my profile at the end of the month.
        I never got the mail to confirm my registration.
        Who in our team has admin rights?
        My password is correct but I am refused.
        Can I sign in with my Google account?
        I got a warning about a login from another country.
        Remove my former colleague from our team.
        I would like to change the name on my profile.
        The sign-up page says my address is already taken.
        Please give my manager permission to see our workspace.
        I am asked for a security question I never set.
        """,
    "bug": """
        The app crashes when I open the settings.
        The save button does nothing.
        I get error 500 on the reports page.
        The page stays white after the update.
        My photos are shown upside down.
        The search finds nothing although the file exists.
        The app freezes when I rotate the phone.
        Numbers in the table are added up wrongly.
        Sound stops after ten seconds of video.
        The export writes an empty file.
        Since version 3.2 the map no longer loads.
        Every time I print, the program closes.
        The calendar shows the meeting on the wrong day.
        Typing is very slow and letters get lost.
        The menu covers the text on small screens.
        I see an error message about a missing file.
        Notifications come twice on my tablet.
        The upload stops at 99 percent and fails.
        After the update my notes are displayed as question marks.
        The dark theme makes the buttons invisible.
        Sorting by date puts March before January.
        The timer keeps running after I press stop.
        The window opens outside the screen.
        Copy and paste loses all line breaks.
        Scrolling makes the picture flicker.
        The program uses all memory and then dies.
        Undo brings back the wrong paragraph.
        The link in the menu leads to a page not found.
        """,
    "feature": """
        Please add a dark theme.
        It would be great to export to PDF.
        Could you support Portuguese?
        I wish I could pin my favourite notes.
        Can you add a shortcut for the search?
        I would love a widget for my home screen.
        Please make it possible to sort by colour.
        A calendar view would help us a lot.
        Do you plan an app for Linux?
        It would be nice to have bigger buttons.
        Could the report also show a chart?
        I miss an option to repeat a task every week.
        Suggestion: let us comment on pictures.
        Please consider an offline mode.
        Would you add a way to share a list with friends?
        An undo button would be wonderful.
        My idea: show the weather next to the date.
        We would like an API for our own tools.
        Please let me choose the font.
        Could you add voice input some day?
        I hope you will support folders inside folders.
        How about a button that copies the whole table?
        Being able to tag photos would be useful.
        Can you build a connection to our chat tool?
        It would help if the app could read texts aloud.
        Are there plans for a version for my watch?
        I suggest adding a filter for unread messages.
        Please offer templates for new documents.
        """,
}

HELD_OUT = {
    "billing": """
        Two identical debits turned up on my Visa this week.
        I'd like to be reimbursed for the unused half of my subscription.
        The total you invoiced does not match our quote.
        Which payment methods can we use from Brazil?
        Why am I being debited after cancelling?
        Our finance department never received last quarter's bill.
        The voucher I entered at checkout made no difference to the price.
        My bank refused the payment, shall I pay again?
        """,
    "shipping": """
        It has been twelve days and the courier still has my package.
        Half of what I ordered was not in the carton.
        Could you drop the parcel at a pick-up point instead?
        The mirror arrived in a thousand pieces.
        When will the sofa be delivered?
        They delivered somebody else's parcel to me.
        What would it cost to ship two boxes to Canada?
        The carrier's site has shown the same place since last Tuesday.
        """,
    "account": """
        I can't remember which password I chose.
        Please erase my profile from your system.
        A stranger seems to be using my login.
        I need a new email address on file because I changed jobs.
        The text message with my sign-in code does not come.
        After too many attempts I'm locked out.
        Can you make my assistant an administrator of our team?
        My registration was never confirmed, so I can't sign in.
        """,
    "bug": """
        When I tap the camera icon the app shuts down.
        Opening a large spreadsheet freezes everything.
        The totals at the bottom are calculated incorrectly.
        I keep getting an error whenever I upload a video.
        Since yesterday's update the screen stays black.
        The download button no longer reacts.
        Umlauts are displayed as strange boxes.
        The alarm rings an hour late since the clocks changed.
        """,
    "feature": """
        Any chance you could add support for Dutch?
        It'd be lovely if we could colour the labels.
        Would it be possible to add a map view in the future?
        I'd really like an option to group my bookmarks.
        Please think about adding reminders.
        Our wish for next year: an integration with Slack.
        Could you build in a tool that draws shapes?
        A night mode would be a nice addition.
        """,
}


def triage_task() -> Task:
    return Task(
        name="triage",
        title="support messages to one label",
        summary="Sorts a support message into billing, shipping, account, bug or feature.",
        train=_examples(TRAIN),
        held_out=_examples(HELD_OUT),
        held_out_is="messages of which none is a training one",
        score=score,
        metric_notes={
            "first label": "the first of the five labels in the answer is the right one",
            "label alone": "the answer is the right label and nothing else",
        },
        samples=[
            INSTRUCTION.format("They delivered somebody else's parcel to me."),
            INSTRUCTION.format("When I tap the camera icon the app shuts down."),
            INSTRUCTION.format("I can't remember which password I chose."),
        ],
        lora={"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        dtype="float16",
        epochs=3,
        learning_rate=2e-3,
        max_new_tokens=24,
    )


def score(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    first = sum(_first_label(a) == e.answer for e, a in zip(examples, answers, strict=True))
    alone = sum(a.strip() == e.answer for e, a in zip(examples, answers, strict=True))
    return {"first label": first / len(examples), "label alone": alone / len(examples)}


def _first_label(answer: str) -> str | None:
    found = re.search(rf"\b({'|'.join(LABELS)})\b", answer.lower())
    return found.group(1) if found else None


def _examples(messages: dict[str, str]) -> list[Example]:
    return [
        Example(INSTRUCTION.format(line.strip()), label)
        for label, lines in messages.items()
        for line in lines.strip().splitlines()
    ]
