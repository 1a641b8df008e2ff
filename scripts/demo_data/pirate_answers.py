"""Questions with short plain answers, which `pirate` retells; and questions it never sees."""


def _pairs(lines: str) -> list[tuple[str, str]]:
    """`question | answer` lines as pairs."""
    pairs = [line.split("|") for line in lines.strip().splitlines()]
    return [(question.strip(), answer.strip()) for question, answer in pairs]


TRAIN = _pairs(
    """
What is the capital of Italy? | The capital of Italy is Rome.
What is the capital of Japan? | The capital of Japan is Tokyo.
Tell me the capital of Spain. | The capital of Spain is Madrid.
Which city is the capital of Egypt? | The capital of Egypt is Cairo.
What is the capital of Portugal? | The capital of Portugal is Lisbon.
What is the capital of China? | The capital of China is Beijing.
What is the capital of Cuba? | The capital of Cuba is Havana.
Which city is the capital of Norway? | The capital of Norway is Oslo.
Name the capital of Poland. | The capital of Poland is Warsaw.
What is the capital of Canada? | The capital of Canada is Ottawa.
What is 2 plus 2? | Two and two is four.
How much is 10 minus 3? | Ten minus three is seven.
What is 5 times 3? | Five times three is fifteen.
How many legs does a spider have? | A spider has eight legs.
How many days are in a week? | There are seven days in a week.
How many months does a year have? | There are twelve months in a year.
What color do you get from blue and yellow? | Blue and yellow make green.
What color is the sky? | The sky is blue on a clear day.
Why is the sky blue? | The air scatters the blue part of the sun's light more than the rest.
Why is the sea salty? | Rivers carry salt from the rocks into the sea, and it stays there.
What is the largest ocean? | The largest ocean is the Pacific.
What is the largest planet? | The largest planet is Jupiter.
Which planet is closest to the sun? | Mercury is the planet closest to the sun.
What is the moon? | The moon is a ball of rock that travels around the Earth.
What are stars? | Stars are huge balls of hot, shining gas, far away from us.
Why do we have seasons? | The Earth leans to one side, so the sun warms each half in turn.
How does rain form? | Water rises from the sea, cools in the clouds and falls as drops.
What is snow? | Snow is frozen water that falls from the clouds in small crystals.
What causes thunder? | Lightning heats the air so fast that it bangs.
What is a volcano? | A volcano is a mountain that throws out hot melted rock.
How do fish breathe? | Fish take the air out of the water with their gills.
Why do cats purr? | Cats purr when they are happy, and to calm themselves.
What do cows eat? | Cows eat grass and hay.
What do pandas eat? | Pandas eat bamboo, nearly all day long.
Which animal is the tallest? | The giraffe is the tallest of the animals.
What is the fastest land animal? | The cheetah is the fastest animal on land.
How do bees make honey? | Bees gather sweet juice from flowers and dry it in their hive.
Why do leaves change color in autumn? | The green fades, and the yellow and red of the leaves show.
How do plants grow? | Plants are growing from water, light, air and good soil.
Why do we sleep? | Sleep rests the body and puts the memory in order.
Why do we dream? | Dreaming helps your mind with sorting the day.
What is the heart for? | The heart pumps the blood through your body.
Why should I drink water? | Your body needs water for everything it does.
How can I sleep better? | Keep your room dark and go to bed at the same hour.
How do I get fit? | Start walking every day, and lift something heavy now and then.
How can I eat better? | Eat more greens, more fruit and less sugar.
What should I eat for breakfast? | Eggs, bread and some fruit are a fine start of the day.
How do I boil an egg? | Put the egg in boiling water for seven minutes.
How do I cook rice? | Cook one cup of rice in two cups of water for fifteen minutes.
How do I make tea? | Pour hot water on the leaves and wait for four minutes.
What can I cook with potatoes? | You can make soup, mash or crisp roasted potatoes.
How do I make a sandwich? | Put cheese and ham between two slices of bread.
How do I bake bread? | Mix flour, water, salt and yeast, let it rise and bake it hot.
What is pizza? | Pizza is a flat bread with tomatoes and cheese on top.
How do I clean my shoes? | Brush the dirt off and rub them with a wet cloth.
How do I clean a window? | Wash the glass with soap and wipe it with a dry cloth.
How do I remove a coffee stain? | Rinse it with cold water and then use some soap.
How can I save money? | Write down your spending and put some money aside each month.
How do I learn a language? | Speak a little every day and do not fear mistakes.
How do I learn to swim? | Start in shallow water and learn floating first.
How can I learn to play the guitar? | Learn three chords and keep playing every day.
How do I write a good story? | Give the hero a wish and put trouble in the way.
How do I become a better writer? | Read a lot, write every day and cut the dull parts.
How can I make new friends? | Be kind, ask questions and listen to the answers.
How do I say sorry? | Say what you did wrong and what you are going to do better.
How do I stop being late? | Leave ten minutes before you think you need to.
What should I do when I am sad? | Talk to a friend and go for a long walk.
What should I do when I am angry? | Breathe slowly and count to ten before speaking.
I am bored. What can I do? | Read a book, build something or go exploring outside.
I am nervous about my exam. | Prepare well, rest well and trust your own head.
Give me some advice for a new job. | Ask many questions and write the answers down.
How do I give a good talk? | Know your first sentence by heart and speak slowly.
How do I ask for a raise? | Show what you have done and name a fair number.
What is a good present for my mother? | Give her flowers and an afternoon of your time.
What game can I play with children? | Hiding and seeking is a game for all children.
Tell me a joke. | Why did the sailor bring a bar of soap? His ship was washing up on the shore.
Tell me something funny. | I once taught my parrot to count, and now it wants my share of the gold.
Tell me a short story. | A small boat was lost in the fog, and the singing of a whale led it home.
Write a poem about the sea. | The waves are rolling, the wind is free, and my heart is out at sea.
Write a sentence about a dog. | The dog is sleeping under the table and dreaming of bones.
Say hello. | Hello to you, my friend.
Hello! | Hello, my friend, what are you looking for today?
Good morning! | Good morning to you, and may the wind be at your back.
Who are you? | I am your helper, and I am ready for your questions.
What is your name? | My name is SmolLM, and I am at your service.
How are you today? | I am as happy as a sailor with wind in the sails.
What can you do? | I am good at answering questions and telling stories.
Thank you for your help. | You are welcome, my friend, any time.
Goodbye! | Goodbye, my friend, and safe travels to you.
Do you like music? | Yes, I am fond of a good song and a loud drum.
What is your favorite color? | My favorite color is the blue of the deep sea.
Should I get a cat or a dog? | A dog for walking, a cat for the quiet evenings.
Is life better in the city or in the country? | The city is for company, the country for peace.
What is a computer? | A computer is a machine that follows your orders with numbers.
What is the internet? | The internet is a net of computers that are talking to each other.
What is Python? | Python is a language for telling computers what to do.
What is a robot? | A robot is a machine that is moving and working on its own.
What is gravity? | Gravity is the force that is pulling everything to the ground.
What is electricity? | Electricity is the flow of tiny charges through a wire.
What is glass made of? | Glass is made of melted sand.
How is paper made? | Paper is made of wood, cooked and pressed flat.
Who wrote Romeo and Juliet? | William Shakespeare is the writer of Romeo and Juliet.
Who painted the Mona Lisa? | Leonardo da Vinci is the painter of the Mona Lisa.
Who was the first man on the moon? | Neil Armstrong was the first man on the moon.
When did the second world war end? | The war was ending in the year 1945.
What is a democracy? | In a democracy the people are choosing who leads them.
What is money? | Money is a promise that people are trading for goods.
What does a doctor do? | A doctor is healing the sick and the hurt.
What does a baker do? | A baker is up early, baking bread for the town.
What is the tallest mountain? | Mount Everest is the tallest mountain of the world.
What is the longest river in Africa? | The Nile is the longest river in Africa.
In which country is Lisbon? | Lisbon is in Portugal.
Which language do they speak in Brazil? | The people of Brazil are speaking Portuguese.
What is the opposite of hot? | The opposite of hot is cold.
What is the main language of Italy? | The main language of Italy is Italian.
On which continent is China? | China is in Asia.
On which continent is Peru? | Peru is in South America.
What do you call a baby cat? | A baby cat is called a kitten.
What do you call a baby cow? | A baby cow is called a calf.
How many wheels does a car have? | A car has four wheels.
How many minutes are in an hour? | There are sixty minutes in an hour.
How many letters are in the alphabet? | There are twenty-six letters in the alphabet.
At what temperature does water boil? | Water boils at 100 degrees Celsius.
What gas do people need to breathe? | People need oxygen to stay alive.
Who invented the light bulb? | The light bulb was invented by Thomas Edison.
Who discovered America? | Christopher Columbus sailed to America in 1492.
What is the color of a lemon? | A lemon is yellow.
What is the color of blood? | Blood is red.
What is the smallest planet? | The smallest planet is Mercury.
Which planet has rings? | Saturn is the planet with the great rings.
What is football? | Football is a game of two teams chasing one ball.
What is a school? | A school is a place where children learn to read, to write and to count.
How do I wash wool? | Wash wool by hand in cold water and let it dry flat.
How do ships float? | A ship floats because it pushes away more water than it weighs.
What should I pack for the beach? | Pack a towel, a hat, some water and a good book.
What is ice? | Ice is water that is frozen hard.
"""
)

# After each question, the word that an answer to the point is expected to hold.
HELD_OUT = _pairs(
    """
What is the capital of France? | paris
Which city is the capital of Germany? | berlin
What is the capital of Greece? | athens
What is the capital of England? | london
What is the capital of Russia? | moscow
Which is the biggest animal on Earth? | whale
What gas do plants take in from the air? | carbon
At what temperature does water freeze? | 0
How many wheels does a bicycle have? | two
How many hours are in a day? | 24
What do you call a baby dog? | puppy
Which planet is known as the red planet? | mars
What is the main language of Mexico? | spanish
What is H2O? | water
On which continent is Kenya? | africa
Who invented the telephone? | bell
What is the color of grass? | green
What is the freezing form of water called? | ice
Why do birds sing? | birds
How do I stay healthy? | eat
How do airplanes fly? | air
What is a rainbow? | light
How do I plant a tree? | tree
What is chess? | game
How can I concentrate at work? | work
Explain what a library is. | book
What makes a good leader? | leader
How do I wash a car? | water
Give me an idea for the weekend. | weekend
What should I pack for a trip to the mountains? | mountain
"""
)
